"""What an exception means: again, outage or give up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core import (
    AccessDenied,
    BrokerError,
    BufferFull,
    Closed,
    NotFound,
    Retry,
    SendFailed,
    SendUnknown,
    TooLarge,
    Unavailable,
)
from eventbus_core.failures import Again, GiveUp, Outage, delay, is_refusal, judge

RETRY = Retry(
    attempts=4,
    first_delay=timedelta(seconds=1),
    max_delay=timedelta(seconds=5),
    never=(KeyError,),
    outage=(ConnectionError,),
)


def _judge(error: Exception, attempt: int = 1, outages: int = 0) -> object:
    return judge(error, RETRY, attempt=attempt, outages=outages, random=lambda: 0.0)


def test_the_pause_doubles_up_to_the_longest_and_then_it_is_given_up() -> None:
    assert [_judge(ValueError(), attempt) for attempt in (1, 2, 3, 4)] == [Again(1.0), Again(2.0), Again(4.0), GiveUp()]
    assert delay(RETRY, 4, lambda: 0.0) == 5.0


def test_what_no_repetition_cures_is_given_up_at_once() -> None:
    assert _judge(KeyError()) == GiveUp()


def test_an_outage_never_ends_in_giving_up() -> None:
    assert _judge(ConnectionResetError(), attempt=4) == Outage(1.0)
    assert _judge(ConnectionResetError(), attempt=4, outages=10_000_000) == Outage(5.0)


@pytest.mark.parametrize("error", [Unavailable("away"), BufferFull("full"), SendUnknown("who knows")])
def test_our_own_errors_of_a_broker_that_is_away_are_an_outage(error: Exception) -> None:
    assert _judge(error, attempt=4) == Outage(1.0)


def test_a_refused_send_is_a_failure() -> None:
    assert _judge(SendFailed("refused")) == Again(1.0)


def test_never_goes_before_outage() -> None:
    retry = Retry(never=(TimeoutError,), outage=(OSError,))
    assert judge(TimeoutError(), retry, attempt=1, outages=0) == GiveUp()


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_a_half(failures: int, chance: float) -> None:
    longest = delay(RETRY, failures, lambda: 0.0)
    assert longest / 2 <= delay(RETRY, failures, lambda: chance) <= longest <= 5.0


def _failed(cause: Exception | None) -> SendFailed:
    error = SendFailed("not stored")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", [TooLarge("x"), BrokerError("too large"), AccessDenied("x")])
def test_a_record_that_the_broker_refuses_is_refused_again(cause: Exception) -> None:
    assert is_refusal(_failed(cause))


def test_a_closed_bus_takes_nothing_more() -> None:
    assert is_refusal(Closed("closed"))


@pytest.mark.parametrize(
    "error", [_failed(None), _failed(NotFound("x")), _failed(Unavailable("x")), SendUnknown("x"), BufferFull("x")]
)
def test_what_may_be_stored_later_is_not_refused(error: SendFailed) -> None:
    assert not is_refusal(error)
