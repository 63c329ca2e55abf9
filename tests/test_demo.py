import json
import re
import subprocess
import sys

import pytest

from eventbus_core import cli
from eventbus_core.cli import demo_run
from eventbus_core.cli.demo_accounting import account
from tests.bus_urls import bus_url

MEMORY = ("demo", "--events", "3000", "--partitions", "4", "--json")


def document(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def check(found: dict, events: int, groups: int = 2) -> None:
    assert found["problem"] is None
    assert found["ok"] is True
    assert found["left_behind"] == []
    assert len(found["groups"]) == groups
    for group in found["groups"]:
        assert group["published"] == group["handled"] == events
        assert (group["lost"], group["out_of_order"], group["unexpected"]) == (0, 0, 0)


def test_memory_accounts_for_everything_with_a_member_abandoned(capsys):
    assert cli.main(MEMORY) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    check(found, 3000)
    assert found["killed"]["how"] == "abandoned"
    # The lease of the abandoned one lasts longer than the pause between two lines of progress.
    assert found["takeover_seconds"] > 2
    assert re.search(r"^published \d+ of 3000; handled, by group: \d+, \d+$", said.err, re.MULTILINE)


def test_without_a_kill_nothing_is_handled_twice(capsys):
    assert cli.main([*MEMORY, "--no-kill", "--members", "1", "--groups", "1"]) == 0
    found = document(capsys)
    check(found, 3000, groups=1)
    assert found["killed"] is None
    assert found["groups"][0]["duplicated"] == 0


def test_the_table_is_for_people():
    arguments = ["demo", "--events", "500", "--no-kill"]
    run = subprocess.run(
        [sys.executable, "-c", "import sys; from eventbus_core.cli import main; sys.exit(main())", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "out of order" in run.stdout
    assert "every event accounted for" in run.stdout


def test_a_run_that_lost_an_event_exits_with_1(capsys, monkeypatch):
    def short(published, history, uncertain=()):
        return account(published, list(history)[1:], uncertain)

    monkeypatch.setattr(demo_run, "account", short)
    assert cli.main([*MEMORY, "--no-kill"]) == 1
    found = document(capsys)
    assert found["ok"] is False
    assert {group["lost"] for group in found["groups"]} == {1}


def test_a_run_that_does_not_move_ends_with_a_clear_line(capsys, monkeypatch):
    from eventbus_core.cli import demo

    # No member ever says that it joined.
    monkeypatch.setattr("eventbus_core.cli.demo_history.HistoryWriter.joined", lambda _: None)
    monkeypatch.setattr(demo, "_patience", lambda _: 0.2)
    assert cli.main(MEMORY) == 1
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1] == "error: no progress for 0.2 s: gave up"
    assert json.loads(said.out)["ok"] is False


def test_a_member_that_fails_ends_the_run(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("eventbus_core.cli.demo_history.HistoryWriter.handled", broken)
    assert cli.main(MEMORY) == 1
    assert "RuntimeError: on purpose" in capsys.readouterr().err


def test_a_lone_member_is_not_killed(capsys):
    assert cli.main(["demo", "--members", "1"]) == 2
    assert "--no-kill" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kafka", "pulsar", "redis"])
@pytest.mark.timeout(180)
def test_a_real_broker_accounts_for_everything_with_a_member_killed(name, request, capsys):
    broker = request.getfixturevalue(f"{name}_broker")
    assert cli.main(["demo", "--url", bus_url(broker), "--events", "4000", "--json"]) == 0, capsys.readouterr().err
    found = document(capsys)
    check(found, 4000)
    assert found["backend"] == name
    assert found["killed"]["how"] == "SIGKILL"
    # Not vacuous: something was left to take over.
    assert found["takeover_seconds"] > 0
