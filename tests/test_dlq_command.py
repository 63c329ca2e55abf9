"""`eventbus dlq`, on a real broker and in memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus_core import Delivery, EventBus, cli
from eventbus_core.cli.output import json_bytes
from eventbus_core.dead_letters.queue import DeadLetterQueue
from tests.brokers import broker
from tests.bus_urls import bus_url
from tests.letting_fail import HEADERS, Member, send
from tests.waiting import wait_until


class Fails:
    """Fails while it is `broken`; `got` holds the keys it was called with."""

    def __init__(self) -> None:
        self.broken = True
        self.got: list[bytes | None] = []

    def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery.record.key)
        if self.broken:
            raise KeyError("sku\nof the shop") if delivery.record.key is None else ValueError("no")


class Scene:
    """A topic with three dead letters of the group `billing`, whose member runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.topic = f"dlq-{uuid.uuid4().hex[:8]}"
        self.handler = Fails()

    def call(self, capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> tuple[int, str, str]:
        code = cli.main(["dlq", command, self.topic, "billing", *arguments, "--url", self.url])
        said = capsys.readouterr()
        return code, said.out, said.err

    def json(self, capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> Any:
        out = self.call(capsys, command, *arguments, "--json")[1]
        documents = [json.loads(line) for line in out.splitlines()]
        return documents if command == "list" else documents[0]


@pytest.fixture(params=["memory", "redis"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else bus_url(broker(request.param))
    scene = Scene(url)
    with EventBus(url) as bus:
        bus.admin().create_topic(scene.topic, 1)
        with Member(url, scene.topic, "billing", scene.handler), bus.producer() as producer:
            for key in (b"a", b"\xff", None):
                send(producer, scene.topic, [b'{"sum": 1}'], key=key)
            wait_until(lambda: len(DeadLetterQueue(bus, scene.topic, "billing").index.entries()) == 3, 20, what="dead")
            yield scene


def test_list_for_people_and_for_programs(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = scene.call(capsys, "list")
    assert (code, err) == (0, "")
    assert "KeyError" in out
    assert out.endswith("3 dead letters\n")
    documents = scene.json(capsys, "list")
    assert sorted(str(each["key"]) for each in documents) == ["None", "a", "{'base64': '/w=='}"]
    assert scene.json(capsys, "list", "--limit", "2") == documents[:2]
    first = next(each for each in documents if each["key"] == "a")
    assert (first["event_type"], first["event_id"], first["reason"]) == ("tests.raw", "0", "failed")
    assert (first["error_type"], first["error_message"], first["attempts"]) == ("ValueError", "no", 1)
    assert scene.call(capsys, "list", "--limit", "2")[1].endswith("3 dead letters, 2 shown\n")


def test_show_has_the_original(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    identity = next(each["id"] for each in scene.json(capsys, "list") if each["key"] == {"base64": "/w=="})
    shown = scene.json(capsys, "show", identity)
    assert shown["value"] == '{"sum": 1}'
    assert shown["headers"] == [[name, json_bytes(value)] for name, value in (*HEADERS, ("ce_id", b"0"))]
    code, out, _ = scene.call(capsys, "show", identity)
    assert code == 0
    assert "key    b'\\xff'" in out
    assert "header ce_type: tests.raw" in out


def test_groups_puts_equal_failures_together(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = scene.json(capsys, "groups")
    assert [(kind["records"], kind["error_type"]) for kind in kinds] == [(2, "ValueError"), (1, "KeyError")]
    assert kinds[0]["stack_hash"] != kinds[1]["stack_hash"]
    assert scene.call(capsys, "groups")[0] == 0


def test_a_dry_run_does_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    calls = len(scene.handler.got)
    code, out, _ = scene.call(capsys, "redrive", "--dry-run", "--count", "2")
    assert code == 0
    assert out.endswith("2 dead letters of 2 keys would be redriven\n")
    assert len(scene.json(capsys, "drop", "--all", "--dry-run")["dropped"]) == 3
    assert len(scene.json(capsys, "list")) == 3
    assert len(scene.handler.got) == calls


def test_redrive_that_fails_again_exits_with_1(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = scene.call(capsys, "redrive", "--timeout", "20")
    assert code == 1
    assert out.startswith("0 handled, 1 failed again, 3 left\n")
    assert err == "0 of 3 handled\n"
    assert scene.json(capsys, "list")[0]["repeats"] == 1


def test_redrive_of_all_leaves_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.handler.broken = False
    outcome = scene.json(capsys, "redrive", "--canary", "2", "--rate", "50")
    assert (len(outcome["handled"]), outcome["failed"], outcome["left"]) == (3, [], 0)
    assert scene.call(capsys, "redrive")[:2] == (0, "0 handled, 0 failed again, 0 left\n")


def test_drop_of_one_and_of_all(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    identity = scene.json(capsys, "list")[1]["id"]
    assert scene.json(capsys, "drop", identity) == {"dropped": [identity], "left": 2}
    assert identity not in [each["id"] for each in scene.json(capsys, "list")]
    code, _, err = scene.call(capsys, "drop", identity)
    assert code == 1
    assert "has no dead letter" in err
    assert scene.call(capsys, "drop", "--all")[1] == "2 dropped, 0 left\n"
    assert scene.call(capsys, "drop", "--all")[1] == "0 dropped, 0 left\n"


@pytest.mark.parametrize("arguments", [(), ("0@1", "--all"), ("nonsense",)])
def test_drop_needs_to_know_what(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dlq", "drop", "orders", "billing", *arguments, "--url", "memory://"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_misspelt_topic_or_group_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with EventBus(url) as bus:
        assert cli.main(["dlq", "list", "oders", "billing", "--url", url]) == 1
        bus.admin().create_topic("orders", 1)
        assert cli.main(["dlq", "list", "orders", "biling", "--url", url]) == 1
        assert "biling" in capsys.readouterr().err
        bus.admin().set_position("billing", "orders", "earliest")
        assert cli.main(["dlq", "list", "orders", "billing", "--url", url]) == 0
