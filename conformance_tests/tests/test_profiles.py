"""Results are of a way to run the broker, not of a product."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance_tests.tests.acme import Acme
from eventbus_conformance.contract import LEVELS
from eventbus_conformance.guard import written
from eventbus_conformance.harness import load

RECEIPTS = "test_a_receipt_tells_the_position"
QUICK = ("-q", "--eventbus-level", "core", "-k", RECEIPTS, "--eventbus-partial")


@pytest.mark.parametrize(
    ("backend", "profiles"),
    [
        ("memory", {"memory"}),
        ("kafka", {"kafka-1-node"}),
        ("pulsar", {"pulsar-standalone"}),
        ("redis", {"redis-aof", "redis-7-aof", "redis-none"}),
    ],
)
def test_the_profiles_say_what_they_are(backend: str, profiles: set[str]) -> None:
    harness = load(backend)
    assert profiles <= harness.profiles.keys()
    assert all(harness.profiles.values())


def test_redis_without_persistence_is_known_to_fail_where_the_broker_is_killed() -> None:
    redis = load("redis")
    every = {each.partition("::")[2] for each in written(LEVELS)}
    assert [each.test for each in redis("redis-aof").expected_failures] == []
    (failure,) = redis("redis-none").expected_failures
    assert failure.test in every


def test_a_report_is_of_a_profile(tmp_path: Path) -> None:
    acme, file = Acme(tmp_path), tmp_path / "report.json"
    assert acme.pytest(*QUICK, "--eventbus-profile", "other", "--eventbus-report", str(file)).returncode == 0
    report = json.loads(file.read_text())
    assert (report["profile"], report["profile_is"]) == ("other", "otherwise")


def test_a_failure_is_known_in_its_profile_only(tmp_path: Path) -> None:
    acme = Acme(tmp_path)
    acme.write(known_failures=f"KnownFailure({RECEIPTS!r}, 'a reason', 'https://example.org/1', profile='other')")
    assert acme.pytest(*QUICK).returncode == 0
    done = acme.pytest(*QUICK, "--eventbus-profile", "other")
    assert done.returncode == 1
    assert "XPASS(strict)" in done.stdout


def test_a_known_failure_of_a_profile_that_is_not_is_refused(tmp_path: Path) -> None:
    acme = Acme(tmp_path)
    acme.write(known_failures=f"KnownFailure({RECEIPTS!r}, 'a reason', 'https://example.org/1', profile='third')")
    done = acme.pytest("--collect-only")
    assert done.returncode == 4
    assert "there is no profile 'third'" in done.stderr
