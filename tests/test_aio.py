"""Publishing from an event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from eventbus_core import BufferFull, Event, EventBus, SendFailed, Settings, Stored, event_type
from eventbus_core.aio import AsyncPublisher
from eventbus_core.backend import Outgoing, Settled
from tests.scripted import ScriptedBackend
from tests.waiting import wait_until


@event_type("tests.aio.counted", topic="counted", key="key")
class Counted(BaseModel):
    number: int
    key: str = "key"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus(f"memory://{uuid.uuid4().hex}") as bus:
        bus.admin().create_topic("counted", 1)
        yield bus


class Slow:
    """A bus whose backend takes what `room` allows; the buffer holds two records."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.bus = EventBus(self.backend)
        self.bus.settings = Settings(send_buffer_records=2, send_wait_seconds=5)
        self.stored: list[int] = []
        self.open = False
        self.backend.answer = self.answer

    def answer(self, outgoing: Outgoing) -> Settled | None:
        if not self.open:
            return None
        self.stored.append(Counted.model_validate_json(outgoing.record.value or b"").number)
        return Settled(outgoing.token, Stored("counted", 0, None, 1))


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.open = True
    slow.bus.close()


def test_publish_waits_until_it_is_stored(bus: EventBus) -> None:
    async def main() -> None:
        async with AsyncPublisher(bus) as publisher:
            stored = await publisher.publish(Counted(number=1))
            assert (stored.topic, stored.partition) == ("counted", 0)
            other = await publisher.publish(Event(Counted(number=2), id="mine"), key="else")
            assert other.position is not None

    asyncio.run(main())
    assert [bus.decode(each, Counted).key for each in bus.read("counted")] == ["key", "else"]


def test_many_at_once_are_stored_in_the_order_of_the_calls(bus: EventBus) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(bus)
        await asyncio.gather(*(publisher.publish(Counted(number=number)) for number in range(2000)))

    asyncio.run(main())
    assert [bus.decode(each, Counted).data.number for each in bus.read("counted")] == list(range(2000))


def test_waiting_for_room_keeps_the_order_and_lets_the_loop_run(slow: Slow) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(slow.bus)
        tasks = [asyncio.create_task(publisher.publish(Counted(number=number))) for number in range(20)]
        longest, before = 0.0, time.monotonic()
        for _ in range(50):
            await asyncio.sleep(0.002)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        slow.open = True
        await asyncio.gather(*tasks)
        assert longest < 3, "a loop that waits for room stands still until there is none in time, after 5 s"

    asyncio.run(main())
    assert slow.stored == list(range(20))


def test_no_room_in_time_is_buffer_full_and_nothing_was_taken(slow: Slow) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(slow.bus)
        await publisher.enqueue(Counted(number=0))
        await publisher.enqueue(Counted(number=1))
        with pytest.raises(BufferFull):
            await publisher.enqueue(Counted(number=2), wait_seconds=0.05)
        slow.open = True
        await publisher.flush()

    asyncio.run(main())
    assert slow.stored == [0, 1]


def test_one_that_is_cancelled_while_it_waits_is_not_taken_and_the_next_has_its_turn(slow: Slow) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(slow.bus)
        tasks = [asyncio.create_task(publisher.publish(Counted(number=number))) for number in range(4)]
        await asyncio.sleep(0.02)
        tasks[2].cancel()
        await asyncio.sleep(0)
        slow.open = True
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert slow.stored == [0, 1, 3]


def test_the_block_ends_when_all_is_stored(bus: EventBus) -> None:
    async def main() -> None:
        async with AsyncPublisher(bus) as publisher:
            receipts = [await publisher.enqueue(Counted(number=number)) for number in range(3000)]
        assert all(receipt.done() for receipt in receipts)

    asyncio.run(main())


def test_flush_can_be_cancelled_and_repeated(slow: Slow) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(slow.bus)
        await publisher.enqueue(Counted(number=0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await publisher.flush()
        slow.open = True
        await publisher.flush()

    asyncio.run(main())
    assert slow.stored == [0]


def test_flush_raises_what_failed_also_when_nobody_kept_the_receipt(slow: Slow) -> None:
    slow.backend.answer = lambda each: Settled(each.token, SendFailed("refused", topic="counted"))

    async def main() -> None:
        publisher = AsyncPublisher(slow.bus)
        publisher._tidy_at = 1
        for number in range(5):
            await publisher.enqueue(Counted(number=number))
        with pytest.raises(SendFailed, match="refused"):
            await publisher.flush()
        await publisher.flush()

    asyncio.run(main())


def test_what_is_stored_is_forgotten(bus: EventBus) -> None:
    async def main() -> None:
        publisher = AsyncPublisher(bus)
        for number in range(5000):
            await publisher.enqueue(Counted(number=number))
            if number % 500 == 0:
                wait_until(lambda: all(each.done() for each in publisher._open), 5, what="all are stored")
        assert len(publisher._open) <= 2000
        await publisher.flush()

    asyncio.run(main())
