"""The bus: opens the backend that the configuration names and owns everything opened through it."""

from __future__ import annotations

import atexit
import gc
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self, TypeVar

from eventbus_core import envelope
from eventbus_core.admin import Admin
from eventbus_core.backend import Backend, Group
from eventbus_core.capabilities import Capabilities
from eventbus_core.consumer import Consumer
from eventbus_core.errors import Closed, Unsupported, UsageError
from eventbus_core.events import Event, declaration_of
from eventbus_core.forking import generation
from eventbus_core.hooks import Hooks, fan_out
from eventbus_core.intake import Intake
from eventbus_core.loading import load
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Delivery, Record, Start, Where
from eventbus_core.settings import Settings
from eventbus_core.subscribing import Subscriptions
from eventbus_core.validation import check_group, check_topic, check_where, record_size

T = TypeVar("T")

# Strong: what a dropped bus has taken is still sent when the interpreter exits.
_open_buses: set[EventBus] = set()

# Client libraries' destructors join threads that a forked child does not have, so nothing of the parent's is dropped.
_left_to_the_parent: list[object] = []
_ever_opened = False


@atexit.register
def _close_at_exit() -> None:
    with ExitStack() as closing:
        for bus in list(_open_buses):
            closing.callback(bus.close)


def _begin_in_child() -> None:
    for bus in _open_buses:
        bus._renew_lock()  # noqa: SLF001  (one mechanism)
    if _ever_opened:
        # Nor is what the parent had dropped and not collected yet.
        gc.freeze()


os.register_at_fork(after_in_child=_begin_in_child)


class EventBus:
    """One backend, chosen in configuration. Thread-safe; connects when something is first used.

    ``target`` is a URL (``redis://localhost``), ``Settings``, a backend object, or None for the environment and
    ``eventbus.toml``. Raises ``SettingsError`` or ``LoadError``; does no I/O. Closes all that was opened through it, at
    the latest when the interpreter exits. In a forked child it opens clients of its own; what was opened through it
    before the fork raises ``Forked`` there.
    """

    def __init__(self, target: str | Settings | Backend[Any] | None = None, /, *, hooks: Sequence[Hooks] = ()) -> None:
        if isinstance(target, Backend):
            self.settings = Settings()
            self._backend: Backend[Any] = target
            self._own: tuple[type[Backend[Any]], Any] = (type(target), target.settings)
        else:
            self.settings = _settings_of(target)
            kind = load(self.settings.backend)
            self._own = (kind, self.settings.backend_settings())
            self._backend = kind(self._own[1])
        self.hooks = fan_out(hooks)
        self.subscriptions = Subscriptions()
        self.subscribe = self.subscriptions.subscribe
        self._lock = threading.RLock()
        # Their running threads keep them alive, whatever the application drops.
        self._opened: weakref.WeakSet[Producer | Intake] = weakref.WeakSet()
        self._admin = self._new_admin()
        self._shared_producer: Producer | None = None
        self._closed = False
        self._opened_in = generation()

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do and promises."""
        return self._backend.capabilities

    @property
    def backend_name(self) -> str:
        """The name of the backend, as configuration has it."""
        return self._backend.name

    def publish(
        self, data: object, *, topic: str | None = None, key: str | None = None, wait_seconds: float | None = None
    ) -> Receipt:
        """Send an event: data of a class declared with ``event_type``, or an ``Event`` to state id, time or subject.

        ``topic`` and ``key`` override the declaration. Does not wait for the broker; see ``Producer.send`` for the full
        buffer. A failure is logged and told to the hooks even when nobody reads the receipt.
        """
        record, size = self.encode(data, topic, key)
        return self._publisher().send_record(record, size, wait_seconds)

    def encode(self, data: object, topic: str | None, key: str | None) -> tuple[Record, int]:
        """For core: the record that ``publish`` sends, checked, and its size in bytes."""
        source = self.settings.source
        if isinstance(data, Event):
            record = envelope.encode(data, declaration_of(data.data.__class__), source, topic=topic, key=key)
        else:
            record = envelope.encode_new(data, declaration_of(data.__class__), source, topic=topic, key=key)
        check_topic(record.topic)
        record = record._replace(timestamp_ms=int(time.time() * 1000))
        return record, record_size(record, self.capabilities.max_record_bytes)

    def producer(self) -> Producer:
        """A producer of records, with a buffer and a thread of its own."""
        with self._lock:
            self._ready()
            producer = Producer(
                self._backend,
                max_records=self.settings.send_buffer_records,
                max_bytes=self.settings.send_buffer_bytes,
                wait_seconds=self.settings.send_wait_seconds,
                hooks=self.hooks,
                prepare_topic=self.prepare_topic if self._backend.settings.create_topics else None,
            )
            self._opened.add(producer)
            return producer

    def consumer(
        self,
        *topics: str,
        group: str,
        start: Start = "earliest",
        max_unacked: int = 1000,
        on_gap: Literal["continue", "stop"] = "continue",
    ) -> Consumer:
        """Join a group on one or more topics.

        Blocks until the group has durable positions: what is sent from now on reaches it. ``start`` acts only where the
        group had none. ``max_unacked`` bounds the records taken from the broker and not acked. When records vanished
        before the group settled them, ``on_gap`` says whether to go on (logged, told to the hooks) or to raise
        ``PositionGone``. Raises ``NotFound``, ``Unavailable``, ``AccessDenied``.
        """
        intake = self.intake(*topics, group=group, start=start, max_unacked=max_unacked, on_gap=on_gap)
        return Consumer(intake, self.capabilities)

    def intake(
        self,
        *topics: str,
        group: str,
        start: Start,
        max_unacked: int,
        max_unacked_bytes: int | None = None,
        spare_stuck: bool = False,
        transacts: bool = False,
        on_gap: Literal["continue", "stop"] = "continue",
    ) -> Intake:
        """For core: what is behind a consumer, usable from any thread.

        ``max_unacked_bytes`` bounds by an estimate. With ``spare_stuck`` a partition in which nothing is settled for a
        second counts no more against the bounds, and gets no more either, so that it does not stop the others.
        ``transacts``: acks may come with records; takes the capability ``transactions``.
        """
        if not topics:
            raise UsageError("a consumer needs at least one topic")
        if transacts and not self.capabilities.transactions:
            raise Unsupported(f"backend {self._backend.name!r} has no transactions", capability="transactions")
        if max_unacked < 1:
            raise UsageError(f"max_unacked must be at least 1, not {max_unacked}")
        names = tuple(dict.fromkeys(map(check_topic, topics)))
        check_where(start)
        if start not in {"earliest", "latest"} and not self.capabilities.seek_by_time:
            raise Unsupported(
                f"backend {self._backend.name!r} cannot start at a point in time", capability="seek_by_time"
            )
        with self._lock:
            self._ready()
            backend = self._backend
        for name in names:
            self.prepare_topic(name)
        member = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        joining = Group(check_group(group), names, start, member, self.settings.drain_seconds)
        intake = Intake(
            backend,
            joining,
            max_unacked=max_unacked,
            max_unacked_bytes=max_unacked_bytes,
            spare_stuck=spare_stuck,
            transacts=transacts,
            on_gap=on_gap,
            hooks=self.hooks,
        )
        with self._lock:
            if not self._closed:
                self._opened.add(intake)
                return intake
        intake.close(None)
        raise Closed("this bus was closed meanwhile")

    def read(self, topic: str, *, start: Where = "earliest", follow: bool = False) -> Iterator[Delivery]:
        """Look without a group: in order per partition, up to the ends seen at the call, or for ever."""
        yield from self.admin().read(topic, start, follow=follow)

    def decode(self, record: Record | Delivery, into: type[T]) -> Event[T]:
        """The typed event in a record. ``DecodeError``: not an event, or not of that type."""
        if isinstance(record, Delivery):
            return envelope.decode(record.record, into, attempt=record.delivery_count, delivery=record)
        return envelope.decode(record, into)

    def admin(self) -> Admin:
        """Topics, groups, lag and positions; always the same object, closed with the bus."""
        with self._lock:
            self._ready()
            return self._admin

    def prepare_topic(self, topic: str) -> None:
        """For core: create a topic that is missing, where the setting ``create_topics`` says so."""
        settings = self._backend.settings
        if settings.create_topics and topic not in self._admin.topics():
            self._admin.create_topic(topic, settings.default_partitions)

    def close(self, timeout: float | None = None) -> None:
        """Close what was opened through the bus, producers last; each gets at most ``timeout`` seconds. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _open_buses.discard(self)
            opened = list(self._opened)
        if self._opened_in != generation():
            return  # never end the parent's clients: that hangs
        with ExitStack() as closing:  # last in, first out; all of it, whatever raises
            closing.callback(self._backend.close)
            closing.callback(self._admin.end)
            for each in sorted(opened, key=lambda item: isinstance(item, Intake)):
                closing.callback(each.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publisher(self) -> Producer:
        producer = self._shared_producer
        if producer is not None and producer.broke is None and self._opened_in == generation():
            return producer
        with self._lock:
            self._ready()
            if self._shared_producer is None or self._shared_producer.broke is not None:
                self._shared_producer = self.producer()
            return self._shared_producer

    def _ready(self) -> None:
        """With the lock held: refuse a closed bus; after a fork begin anew, leaving the parent's clients alone."""
        if self._closed:
            raise Closed("this bus was closed; open another")
        global _ever_opened
        _ever_opened = True
        _open_buses.add(self)
        if self._opened_in != generation():
            _left_to_the_parent.extend((self._backend, self._shared_producer, self._admin, *self._opened))
            kind, settings = self._own
            self._backend = kind(settings)
            self._opened = weakref.WeakSet()
            self._shared_producer = None
            self._admin = self._new_admin()
            self._opened_in = generation()

    def _renew_lock(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def _new_admin(self) -> Admin:
        return Admin(self._backend.admin, self._backend.settings.request_timeout_seconds)


def _settings_of(target: str | Settings | None) -> Settings:
    if isinstance(target, Settings):
        return target
    return Settings.load() if target is None else Settings.from_url(target)
