"""Sending dead letters back to the group that could not handle them, a few first, until one fails again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from eventbus_core.dead_letters.index import Entry
from eventbus_core.dead_letters.letters import DeadLetter, DeadLetterId, redrive_topic, redriven, size_of
from eventbus_core.dead_letters.queue import DeadLetterQueue, Discharge
from eventbus_core.errors import NotFound, Unavailable, UsageError
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt

_ROUND = 100
_POLL_SECONDS = 0.05


@dataclass
class Redriven:
    """What a redrive did. ``handled`` are discharged now; ``failed`` failed once more, and stay."""

    handled: list[Entry] = field(default_factory=list)
    failed: list[Entry] = field(default_factory=list)


def redrive(
    queue: DeadLetterQueue,
    *,
    count: int | None = None,
    canary: int = 1,
    rate: float | None = None,
    timeout: float = 60.0,
    progress: Callable[[Redriven], None] = lambda _: None,
) -> Redriven:
    """Send dead letters back to their group, the oldest first; ends after the first round in which one fails again.

    Only this group sees them, as the same events: bytes, key, headers and so the event's id are the original's, and
    attempts count from 1. A round has at most one event of each key, and the next round waits for the end of this
    one, so events of a key are handled in order, and none after one that failed. An event counts as handled when the
    group settled it and no failure was stored: so also when its handler's policy is to drop it. At least once: what was
    sent and not discharged, because this process died or a worker was too slow, is sent again by the next redrive.

    Args:
        queue: As it was read last; its index shows afterwards what is left.
        count: At most so many; None: all that were there.
        canary: How many the first round has; later ones have up to 100.
        rate: At most so many a second.
        timeout: Seconds without any being settled after which it gives up.
        progress: Called after every round.

    Raises:
        NotFound: The group has never run with dead letters in this topic.
        Unavailable: No worker settles them; those of this round may still be handled when one comes.
        Conflict: Somebody else redrives or drops here.
        UsageError: A number below its minimum.
        SendError: The broker did not take one.
    """
    if canary < 1 or (count is not None and count < 1) or (rate is not None and rate <= 0) or timeout <= 0:
        raise UsageError("count and canary must be at least 1, rate and timeout more than 0")
    outcome = Redriven()
    waiting = queue.index.entries()[:count]
    if waiting:
        _redrive(_Run(queue, rate, timeout), waiting, canary, outcome, progress)
    return outcome


def _redrive(
    run: _Run, waiting: list[Entry], size: int, outcome: Redriven, progress: Callable[[Redriven], None]
) -> None:
    queue = run.queue
    run.await_settled()  # what an earlier redrive left there comes first
    with Discharge(queue) as discharging, queue.bus.producer() as producer:
        while waiting and not outcome.failed:
            chosen = _one_of_each_key(waiting, size)
            size = _ROUND
            failed = run.send(chosen, discharging.letter, producer)
            handled = [entry for entry in chosen if entry.id not in failed]
            discharging.discharge(handled)
            outcome.handled += handled
            outcome.failed += [entry for entry in chosen if entry.id in failed]
            done = {entry.id for entry in chosen}
            waiting = [entry for entry in waiting if entry.id not in done]
            progress(outcome)


def drop(queue: DeadLetterQueue, entries: Iterable[Entry]) -> None:
    """Discharge dead letters without handling them; durable on return. ``Conflict`` like ``redrive``."""
    with Discharge(queue) as discharging:
        discharging.discharge(list(entries))


def _one_of_each_key(waiting: Sequence[Entry], size: int) -> list[Entry]:
    """The oldest of each key; those without a key are all different."""
    chosen: list[Entry] = []
    keys: set[bytes] = set()
    for entry in waiting:
        key = entry.first.original.key
        if key is None or key not in keys:
            chosen.append(entry)
            keys.update([] if key is None else [key])
        if len(chosen) == size:
            break
    return chosen


class _Run:
    """One redrive."""

    def __init__(self, queue: DeadLetterQueue, rate: float | None, timeout: float) -> None:
        self.queue = queue
        self._gap = 0.0 if rate is None else 1 / rate
        self._timeout = timeout
        self._id = uuid.uuid4().hex[:12]
        self._admin = queue.bus.admin()
        self._topic = redrive_topic(queue.topic, queue.group)
        self._next = 0.0

    def send(
        self, entries: Sequence[Entry], letter: Callable[[Entry], DeadLetter], producer: Producer
    ) -> set[DeadLetterId]:
        """Send them, wait until the group settled them; those that failed again."""
        before = {entry.id: entry.failed_in[self._id] for entry in entries}
        receipts: list[Receipt] = []
        for entry in entries:
            self._wait_for_turn()
            record = redriven(letter(entry), entry.id, self._id)
            receipts.append(producer.send_record(record, size_of(record), None))
        for receipt in receipts:
            receipt.result()
        self.await_settled()
        self.queue.refresh()
        return {entry.id for entry in entries if entry.failed_in[self._id] > before[entry.id]}

    def _wait_for_turn(self) -> None:
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self._gap

    def await_settled(self) -> None:
        """Wait until the group has settled all that was redriven to it."""
        group, topic = self.queue.group, self._topic
        left: int | None = None
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                records = sum(lag.records for lag in self._admin.lag(group, topic))
            except NotFound as error:
                raise NotFound(
                    f"group {group!r} has never received redriven events of {self.queue.topic!r}: start its worker",
                    topic=topic,
                ) from error
            if not records:
                return
            if left is None or records < left:
                left, deadline = records, time.monotonic() + self._timeout
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"group {group!r} has settled none of {records} redriven events for {self._timeout:g} s: does its "
                    f"worker run? They wait in {topic!r}, and remain dead letters",
                    topic=topic,
                )
            time.sleep(_POLL_SECONDS)
