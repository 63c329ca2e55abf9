"""The plugin refuses a verdict where the suite did not run as it is, and gates by what is declared, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance_tests.tests.acme import Acme

RECEIPTS = "test_a_receipt_tells_the_position"
QUICK = ("-q", "--eventbus-level", "core", "-k", RECEIPTS)


@pytest.fixture
def acme(tmp_path: Path) -> Acme:
    return Acme(tmp_path)


def test_the_suite_needs_a_backend(acme: Acme) -> None:
    done = acme.pytest("--collect-only", backend=False)
    assert done.returncode == 4
    assert "--eventbus-backend" in done.stderr


def test_an_unknown_backend_profile_or_level_is_told(acme: Acme) -> None:
    for arguments, message in [
        (["--eventbus-backend", "nothing"], "memory"),
        (["--eventbus-backend", "acme", "--eventbus-profile", "x"], "it has plain, other"),
        (["--eventbus-backend", "acme", "--eventbus-level", "core,x"], "core, semantics, faults"),
    ]:
        done = acme.pytest(*arguments, backend=False)
        assert done.returncode == 4
        assert message in done.stderr


def test_without_a_backend_its_fixtures_are_not_there(acme: Acme) -> None:
    (acme.work / "test_own.py").write_text("def test_own(bus):\n    pass\n")
    alone = acme.pytest("test_own.py", suite=False)
    assert "fixture 'bus' not found" in alone.stdout
    (acme.work / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef bus():\n    return 1\n")
    assert acme.pytest("test_own.py", suite=False).returncode == 0


def test_a_part_of_the_suite_gives_no_verdict(acme: Acme, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = acme.pytest(*QUICK, "--eventbus-report", str(report))
    assert done.returncode == 1
    assert "INCOMPLETE, no verdict" in done.stdout
    found = json.loads(report.read_text())
    assert not found["complete"]
    assert len(found["left_out"]) > 20
    assert [each["outcome"] for each in found["clauses"] if each["id"] == "P3"] == ["pass"]
    assert [each["outcome"] for each in found["clauses"] if each["id"] == "R1"] == ["not proven"]
    assert acme.pytest(*QUICK, "--eventbus-partial").returncode == 0


def test_what_a_conftest_drops_is_missed(acme: Acme) -> None:
    (acme.work / "conftest.py").write_text(
        f"def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if i.name == {RECEIPTS!r}]\n"
    )
    done = acme.pytest("-q", "--eventbus-level", "core")
    assert "1 passed" in done.stdout
    assert "INCOMPLETE, no verdict" in done.stdout
    assert done.returncode == 1


def test_a_copy_of_a_test_is_refused(acme: Acme) -> None:
    (acme.work / "test_own.py").write_text("from eventbus_conformance.core.test_sending import *\n")
    done = acme.pytest("test_own.py", "--collect-only", suite=False, backend=True)
    assert done.returncode == 4
    assert "is, or claims to be, a test of the conformance suite" in done.stderr


def test_an_overridden_fixture_is_refused(acme: Acme) -> None:
    (acme.work / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef topic():\n    return 'mine'\n")
    done = acme.pytest(*QUICK, "--eventbus-partial")
    assert done.returncode != 0
    assert "overrides the fixture 'topic'" in done.stdout + done.stderr


def test_a_known_failure_is_strict(acme: Acme) -> None:
    acme.write(known_failures=f"KnownFailure({RECEIPTS!r}, 'a reason', 'https://example.org/1')")
    done = acme.pytest(*QUICK, "--eventbus-partial")
    assert done.returncode == 1
    assert "XPASS(strict)" in done.stdout
    acme.write(
        capabilities="stored_position=True",
        known_failures=f"KnownFailure({RECEIPTS!r}, 'a reason', 'https://example.org/1')",
        more=NO_POSITIONS,
    )
    done = acme.pytest(*QUICK, "--eventbus-partial")
    assert done.returncode == 0
    assert "known failure" in done.stdout
    assert "https://example.org/1" in done.stdout


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("KnownFailure('test_that_is_not', 'r', 'https://example.org')", "the suite has no such test"),
        (f"KnownFailure({RECEIPTS!r}, '', 'https://example.org')", "needs a reason"),
        (f"KnownFailure({RECEIPTS!r}, 'r', 'later')", "needs a reason, and a link"),
    ],
)
def test_a_known_failure_needs_a_test_a_reason_and_a_link(acme: Acme, failure: str, message: str) -> None:
    acme.write(known_failures=failure)
    done = acme.pytest("--collect-only")
    assert done.returncode == 4
    assert message in done.stderr


NO_POSITIONS = """
    class _Silent:
        def __init__(self, inner):
            self._inner = inner
        def __getattr__(self, name):
            return getattr(self._inner, name)
        def poll(self, timeout):
            return [each._replace(outcome=each.outcome._replace(position=None)) for each in self._inner.poll(timeout)]

    AcmeBackend.producer = lambda self, **limits: _Silent(MemoryBackend.producer(self, **limits))
"""


def outcome(acme: Acme, tmp_path: Path, which: str, clause: str) -> str:
    report = tmp_path / "report.json"
    acme.pytest("-q", "-k", which, "--eventbus-level", "core", "--eventbus-report", str(report))
    return next(str(each["outcome"]) for each in json.loads(report.read_text())["clauses"] if each["id"] == clause)


def test_claiming_too_much_and_too_little_both_fail(acme: Acme, tmp_path: Path) -> None:
    which = "position"
    assert outcome(acme, tmp_path, which, "P3") == "pass"
    acme.write(capabilities="stored_position=False", more=NO_POSITIONS)
    assert outcome(acme, tmp_path, which, "P3") == "refused as declared"
    acme.write(capabilities="stored_position=True", more=NO_POSITIONS)
    assert outcome(acme, tmp_path, which, "P3") == "fail"
    acme.write(capabilities="stored_position=False")
    assert outcome(acme, tmp_path, which, "P3") == "fail"


def test_a_missing_broker_is_not_a_pass(acme: Acme) -> None:
    acme.write(up="raise NoBroker('none here')")
    done = acme.pytest("-q", "--eventbus-level", "core")
    assert done.returncode == 5
    assert "NO BROKER: acme: none here" in done.stdout + done.stderr
    acme.write(up="raise AssertionError('it runs and does not answer')")
    done = acme.pytest("-q", "--eventbus-level", "core")
    assert done.returncode == 1
    assert "does not answer" in done.stdout + done.stderr
