"""Without a broker a test is skipped loudly, or fails where the broker is required."""

from __future__ import annotations

import pytest

from tests.brokers import _Missing


def test_a_missing_broker_skips_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_REQUIRE", "redis")
    with pytest.raises(pytest.skip.Exception, match="NO BROKER: kafka: no Docker"):
        _Missing("no Docker").give_up("kafka")


def test_a_missing_broker_that_is_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_REQUIRE", "redis, kafka")
    with pytest.raises(pytest.fail.Exception, match="NO BROKER: kafka: no Docker"):
        _Missing("no Docker").give_up("kafka")


def test_a_broker_that_is_there_and_does_not_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTBUS_TEST_REQUIRE", raising=False)
    with pytest.raises(pytest.fail.Exception, match="broke at start"):
        _Missing("broke at start", broken=True).give_up("kafka")
