"""Records that nobody sent through the bus."""

from __future__ import annotations

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import NewTopic
from eventbus_conformance.harness import Bounds, Harness, Raw
from eventbus_conformance.receiving import nothing_more, take
from eventbus_core import EventBus, Hooks
from eventbus_core.consumer import Consumer
from eventbus_core.records import Assignment, Delivery, Position

FOREIGN = (
    Raw(b"\x00\xff no text", b"key", (("foreign", b"1"),)),
    Raw(b"", b"", (("foreign", b""), ("ce_id", b"7"))),
    Raw(b"x" * 100_000, b"k", (("foreign", b"h" * 10_000),)),
)


class Gaps(Hooks):
    """How many gaps the hooks were told."""

    def __init__(self) -> None:
        self.told = 0

    def gap(self, assignment: Assignment, after: Position | None, resume: Position, reason: str) -> None:  # noqa: ARG002
        self.told += 1


@clause("R9")
def test_what_another_program_writes_stops_nothing_and_is_not_passed_over_in_silence(
    bus_url: str, new_topic: NewTopic, harness: Harness, group: str, bounds: Bounds
) -> None:
    topic, gaps = new_topic(1), Gaps()
    with EventBus(bus_url, hooks=[gaps]) as bus:
        with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
            producer.send(topic, b"before", key=b"k").result(bounds.deliver)
            for raw in FOREIGN:
                harness.raw_send(topic, 0, raw)
            producer.send(topic, b"after", key=b"k").result(bounds.deliver)
            received = _take_to(b"after", consumer, bounds.deliver)
            assert nothing_more(consumer, bounds.quiet)
            assert consumer.flush(bounds.close) == 0
        values = [each.record.value for each in received]
        foreign = [] if gaps.told >= len(FOREIGN) else [each.value for each in FOREIGN]
        assert values == [b"before", *foreign, b"after"], f"{gaps.told} gaps were told"
        assert [each.record.value for each in bus.read(topic)] == values
        with bus.consumer(topic, group=group) as consumer:
            assert nothing_more(consumer, bounds.quiet), "what was acked came again"


def _take_to(last: bytes, consumer: Consumer, timeout: float) -> list[Delivery]:
    """Receive and ack until this value comes."""
    received: list[Delivery] = []
    while not received or received[-1].record.value != last:
        received += take(consumer, 1, timeout, ack=True)
    return received
