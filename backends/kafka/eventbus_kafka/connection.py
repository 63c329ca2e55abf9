"""The admin client, and the probe that turns a silent connection problem into an error with a reason.

Kafka's clients report wrong credentials and untrusted certificates only to an error callback; calls just time out
(librdkafka 2.16). So every opening first asks the cluster to describe itself and watches that callback.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import TopicMetadata

from eventbus_core.errors import AccessDenied, EventBusError, NotFound, Unavailable
from eventbus_kafka.errors import CLIENT_ERRORS, NOT_FOUND, broker_error, of_exception, refused
from eventbus_kafka.settings import KafkaSettings

T = TypeVar("T")

_TURN_SECONDS = 0.05

#: How long the client itself may wait for an answer about a group: far longer than we do, who then end the client. If
#: it gave up by itself, a late answer could end the process (librdkafka 2.16: rd_kafka_enq_once_del_source_return).
PATIENCE_SECONDS = 3600.0


class _Complaints:
    """What the connections of a client complained of last. The client holds this, and not its ``Connection``."""

    def __init__(self) -> None:
        self.last: KafkaError | None = None

    def note(self, error: KafkaError) -> None:
        # The reason comes before the summary "all brokers are down", which says less.
        if self.last is None or error.name() != "_ALL_BROKERS_DOWN":
            self.last = error


class Connection:
    """An admin client that remembers what its connections complained of last. Not thread-safe.

    Opening blocks for at most ``connect_timeout_seconds``. Raises AccessDenied (at once), Unavailable.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._complaints = _Complaints()
        self._client: AdminClient | None = None
        try:
            self._probe()
        except EventBusError:
            self.close()
            raise

    @property
    def client(self) -> AdminClient:
        """The client, a new one after :meth:`close`."""
        if self._client is None:
            self._complaints = _Complaints()
            try:
                # AdminClient delivers errors only inside its poll().
                config: dict[str, Any] = {**self.settings.client_config(), "error_cb": self._complaints.note}
                self._client = AdminClient(config)
            except CLIENT_ERRORS as error:
                what = "opening a Kafka client (check ca_file, cert_file, key_file and client_options)"
                raise of_exception(what, error) from error
        return self._client

    def close(self) -> None:
        """Close the connections; a request that has not gone out yet never will."""
        self._client = None

    @property
    def last_text(self) -> str:
        """What the connections complained of last; empty when nothing."""
        last = self._complaints.last
        return "" if last is None else f"{last.str()} [{last.name()}]"

    def _probe(self) -> None:
        timeout = self.settings.connect_timeout_seconds
        deadline = time.monotonic() + timeout
        answer = self.client.describe_cluster(request_timeout=timeout)
        while not wait([answer], _TURN_SECONDS).done and time.monotonic() < deadline:
            self.client.poll(0)
            self._raise_denial()
        if not answer.done() or answer.exception(0) is not None:
            self.client.poll(0)
            self._raise_denial()
            last = None if self._complaints.last is None else KafkaException(self._complaints.last)
            cause = answer.exception(0) if answer.done() else last
            raise Unavailable(
                f"no Kafka broker answered at {self.settings.bootstrap_servers} within {timeout:g} s"
                f"{': ' + self.last_text if self.last_text else ''}; check bootstrap_servers, that the broker is up, "
                f"and security_protocol ({self.settings.security_protocol})",
                backend="kafka",
            ) from cause
        self._complaints.last = None

    def _raise_denial(self) -> None:
        if self._complaints.last is not None and refused(self._complaints.last):
            raise AccessDenied(
                f"no trusted connection of {self.settings.user} to Kafka at {self.settings.bootstrap_servers}: "
                f"{self.last_text}; check sasl_*, ca_file, cert_file and key_file",
                backend="kafka",
            )

    def explain(self, what: str, error: Exception, *, topic: str | None = None) -> EventBusError:
        """The event bus's error for a client's, with what the connections complained of since."""
        self.client.poll(0)
        return of_exception(what, error, topic=topic, hint=self.last_text, user=self.settings.user)

    def result(self, what: str, answer: Future[T], *, topic: str | None = None) -> T:
        """Wait for an admin call's answer, at most a little longer than ``request_timeout_seconds``."""
        try:
            return answer.result(timeout=self.settings.request_timeout_seconds + 1)
        except (*CLIENT_ERRORS, ValueError) as error:
            raise self.explain(what, error, topic=topic) from error
        except TimeoutError as error:
            explained = self.explain(what, error, topic=topic)
            # With the client ends the request, which it would go on trying after the caller was told that it failed.
            self.close()
            raise explained from error

    def only(self, what: str, answers: dict[Any, Future[T]], *, topic: str | None = None) -> T:
        """The result of a call that was made for one thing."""
        return self.result(what, next(iter(answers.values())), topic=topic)

    def metadata(self, topic: str) -> TopicMetadata:
        """What the brokers say of one topic. Raises NotFound."""
        try:
            found = self.client.list_topics(topic, timeout=self.settings.request_timeout_seconds).topics.get(topic)
        except CLIENT_ERRORS as error:
            raise self.explain(f"asking for topic {topic!r}", error, topic=topic) from error
        if found is None or (found.error is not None and found.error.name() in NOT_FOUND):
            raise NotFound(
                f"topic {topic!r} does not exist; create it (`eventbus topic create`) or check the name",
                topic=topic,
                backend="kafka",
            )
        if found.error is not None and found.error.name() != "LEADER_NOT_AVAILABLE":
            raise broker_error(f"asking for topic {topic!r}", found.error, topic=topic, user=self.settings.user)
        return found
