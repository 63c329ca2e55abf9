import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import typer

from eventbus_core import cli
from eventbus_core.cli import backends as backends_command
from eventbus_core.loading import Installed
from tests.bus_urls import bus_url
from tests.waiting import wait_until

README = Path(__file__).parent.parent / "README.md"
COMMAND = [sys.executable, "-c", "import sys; from eventbus_core.cli import main; sys.exit(main())"]


def run(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=60, env=environment, check=False
    )


@pytest.fixture
def topic():
    return f"cli-{uuid.uuid4().hex[:8]}"


def only_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_backends_lists_memory_with_its_capabilities_and_their_sources(capsys):
    cli.main(["backends", "--json"])
    memory = next(each for each in json.loads(capsys.readouterr().out) if each["name"] == "memory")
    assert memory["distribution"] == "eventbus-core"
    assert memory["problem"] is None
    assert memory["capabilities"]["reach"]["value"] == "process"
    assert all(each["source"] for each in memory["capabilities"].values())


def test_backends_for_people(capsys):
    cli.main(["backends"])
    out = capsys.readouterr().out
    assert "eventbus-core" in out
    assert "fenced_ack" in out


def test_a_broken_backend_is_a_problem_found(capsys, monkeypatch):
    broken = Installed("broken", "eventbus-broken", "9", None, "backend 'broken' cannot be imported")
    monkeypatch.setattr(backends_command, "installed", lambda: [broken])
    assert cli.main(["backends"]) == 1
    assert "cannot be imported" in capsys.readouterr().out
    assert cli.main(["backends", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["capabilities"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["topics"],
        ["topics", "create"],
        ["topics", "create", "t", "--partitions", "0"],
        ["topics", "create", "t", "--partitions", "many"],
        ["send", "t", "v", "--header", "no-equals-sign"],
        ["tail", "t", "--from", "yesterday"],
        ["tail", "t", "--from", "2030-01-31T12:00:00"],
        ["lag"],
        ["demo", "--backend", "memory", "--url", "memory://"],
        ["send", "bad topic name!", "v"],
        ["topics", "list", "--url", "nosuchbackend://host"],
        ["topics", "list", "--url", "memory://?nosuchsetting=1"],
    ],
)
def test_wrong_usage_and_configuration_exit_with_2_and_one_line(arguments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert only_line(said.err)
    assert said.out == ""


@pytest.mark.parametrize("arguments", [["--help"], ["topics", "--help"], ["demo", "--help"]])
def test_help_is_no_error(arguments, capsys):
    assert cli.main(arguments) == 0
    assert "--help" in capsys.readouterr().out


def commands(group: typer.Typer) -> dict[str, set[str]]:
    """The options of each command, by its full name."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, names: tuple[str, ...]) -> None:
        for name, each in getattr(command, "commands", {}).items():
            walk(each, (*names, name))
        if not hasattr(command, "commands"):
            found[" ".join(names)] = {option for each in command.params for option in each.opts}

    walk(typer.main.get_command(group), ())
    return found


def test_every_command_can_answer_in_json_and_the_readme_names_it():
    found = commands(cli.app)
    assert {"backends", "topics create", "send", "tail", "lag", "demo"} <= found.keys()
    assert all("--json" in options for name, options in found.items() if name != "run")
    listed = re.findall(r"^eventbus ((?:[a-z]+)(?: [a-z|]+)?)", README.read_text(encoding="utf-8"), re.MULTILINE)
    pairs = [(top, sub) for top, _, subs in (each.partition(" ") for each in listed) for sub in subs.split("|")]
    words = {f"{top} {sub}".strip() for top, sub in pairs}
    assert words == found.keys()


def test_what_does_not_exist_is_a_problem(capsys):
    assert cli.main(["topics", "describe", "no-such-topic"]) == 1
    assert "no-such-topic" in only_line(capsys.readouterr().err)
    assert cli.main(["lag", "no-such-group", "no-such-topic"]) == 1
    assert only_line(capsys.readouterr().err)
    assert cli.main(["lag", "no-such-group"]) == 1
    assert "no-such-group" in only_line(capsys.readouterr().err)


def test_send_takes_the_value_from_standard_input(capsys, monkeypatch, topic):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00raw")))
    assert cli.main(["send", topic, "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert stored["topic"] == topic
    assert stored["partition"] >= 0


def test_a_misspelt_variable_is_refused_without_a_traceback():
    done = run("topics", "list", env={"EVENTBUS_BACKND": "memory"})
    assert done.returncode == 2
    assert "EVENTBUS_BACKND" in only_line(done.stderr.decode())
    assert b"Traceback" not in done.stderr


def test_a_broker_that_is_away_is_one_line_and_1():
    done = run("topics", "list", "--url", "redis://127.0.0.1:1?connect_timeout_seconds=0.5&request_timeout_seconds=0.5")
    assert done.returncode == 1, done.stderr
    assert only_line(done.stderr.decode())
    assert b"Traceback" not in done.stderr


def test_redis_round_trip(redis_broker, topic):
    url = ["--url", bus_url(redis_broker)]
    assert run("topics", "create", topic, "--partitions", "2", *url).returncode == 0
    assert run("topics", "create", topic, "--partitions", "2", *url).returncode == 0
    conflict = run("topics", "create", topic, "--partitions", "3", *url)
    assert conflict.returncode == 1
    assert topic in only_line(conflict.stderr.decode())
    assert topic in json.loads(run("topics", "list", "--json", *url).stdout)

    sent = run("send", topic, "grüße", "--key", "k", "-H", "a=1", "-H", "a=2", "--json", *url)
    assert sent.returncode == 0, sent.stderr
    place = json.loads(sent.stdout)
    assert run("send", topic, "--key", "k", *url, stdin=b"\xff\n").returncode == 0

    tailed = run("tail", topic, "--json", *url)
    assert tailed.returncode == 0, tailed.stderr
    first, second = map(json.loads, tailed.stdout.splitlines())
    assert {name: first[name] for name in place} == place
    assert (first["key"], first["value"]) == ("k", "grüße")
    assert first["headers"] == [["a", "1"], ["a", "2"]]
    assert second["value"] == {"base64": "/wo="}
    assert second["headers"] == []

    one = run("tail", topic, "--limit", "1", *url)
    assert b"gr" in one.stdout
    assert len(one.stdout.splitlines()) == 1
    assert run("tail", topic, "--from", "latest", *url).stdout == b""
    assert run("tail", topic, "--from", "2099-01-01T00:00:00Z", *url).stdout == b""

    described = json.loads(run("topics", "describe", topic, "--json", *url).stdout)
    assert len(described["partitions"]) == 2
    assert run("topics", "delete", topic, *url).returncode == 0
    gone = run("topics", "describe", topic, *url)
    assert gone.returncode == 1
    assert topic in only_line(gone.stderr.decode())


def test_redis_lag_of_a_group(redis_broker, topic):
    from eventbus_core import EventBus

    url = bus_url(redis_broker)
    group = f"g-{topic}"
    with EventBus(url) as bus, bus.admin() as admin:
        admin.create_topic(topic, 1)
        producer = bus.producer()
        for number in range(5):
            producer.send(topic, b"%d" % number).result(10)
        with bus.consumer(topic, group=group) as consumer:
            received = []
            wait_until(lambda: received.extend(consumer.receive(2)) or received, 20, what="the first records")
            consumer.ack(received[0])
            consumer.flush(10)
    for arguments in (["lag", group], ["lag", group, topic]):
        shown = run(*arguments, "--json", "--url", url)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["records"] == 4
    assert b"4 records behind" in run("lag", group, "--url", url).stdout
    assert run("topics", "delete", topic, "--url", url).returncode == 0


def test_tail_follows_until_interrupted(redis_broker, topic):
    url = ["--url", bus_url(redis_broker)]
    assert run("topics", "create", topic, "--partitions", "1", *url).returncode == 0
    # A script that starts the tests in the background has SIGINT ignored, and processes inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    following = subprocess.Popen(
        [*COMMAND, "tail", topic, "--follow", "--json", *url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    signal.signal(signal.SIGINT, before)
    try:
        assert run("send", topic, "one", *url).returncode == 0
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["value"] == "one"
        assert run("send", topic, "two", *url).returncode == 0
        assert json.loads(following.stdout.readline())["value"] == "two"
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=20)
    finally:
        following.kill()
        following.wait()
    assert following.returncode == 130
    assert b"Traceback" not in said
    assert run("topics", "delete", topic, *url).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_traceback(redis_broker, topic):
    from eventbus_core import EventBus

    url = bus_url(redis_broker)
    with EventBus(url) as bus, bus.admin() as admin:
        admin.create_topic(topic, 1)
        producer = bus.producer()
        for _ in range(2000):
            producer.send(topic, b"x" * 100)
        assert producer.flush(30) == 0
    tailing = subprocess.Popen([*COMMAND, "tail", topic, "--url", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert tailing.stdout is not None
    assert tailing.stdout.readline()
    tailing.stdout.close()
    assert tailing.stderr is not None
    said = tailing.stderr.read()
    tailing.stderr.close()
    assert tailing.wait(20) in {0, 1}
    assert b"Traceback" not in said
    assert b"Exception" not in said
    assert run("topics", "delete", topic, "--url", url).returncode == 0
