from __future__ import annotations

import inspect
import socket
import time

import confluent_kafka.error
import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from eventbus_core.errors import SendFailed, SendUnknown, Unavailable
from eventbus_kafka import KafkaBackend, KafkaSettings, errors


def codes() -> set[str]:
    return {name for name in dir(KafkaError) if name.isupper() and name != "NO_ERROR"}


def test_every_code_of_the_client_is_mapped_once() -> None:
    sets = [errors.ACCESS_DENIED, errors.NOT_FOUND, errors.CONFLICT, errors.UNAVAILABLE, errors.OTHER]
    assert len(codes()) > 100
    for name in codes():
        assert sum(name in each for each in sets) == 1, name


def test_every_exception_class_of_the_client_is_known() -> None:
    classes = [each for _, each in inspect.getmembers(confluent_kafka.error, inspect.isclass)]
    raised = [each for each in classes if issubclass(each, Exception)]
    assert raised
    assert all(issubclass(each, KafkaException) for each in raised)


def test_failed_is_only_what_is_certain() -> None:
    for name in codes():
        error = KafkaError(getattr(KafkaError, name))
        certain = name in errors.SEND_FAILED
        assert isinstance(errors.send_outcome(error, "t", disturbed=False), SendFailed if certain else SendUnknown)
        assert isinstance(errors.send_outcome(error, "t", disturbed=True), SendUnknown)
    assert not {"_MSG_TIMED_OUT", "_PURGE_QUEUE", "_PURGE_INFLIGHT"} & errors.SEND_FAILED


def test_nobody_there_is_unavailable_in_time() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        backend = KafkaBackend(
            KafkaSettings(bootstrap_servers=f"127.0.0.1:{held.getsockname()[1]}", connect_timeout_seconds=1.0)
        )
        began = time.monotonic()
        with pytest.raises(Unavailable, match="refused"):
            backend.producer(max_records=1, max_bytes=1)
        assert time.monotonic() - began < 2.0


def test_settings_from_a_url_hide_the_password_and_refuse_what_guarantees_rest_on() -> None:
    settings = KafkaSettings.from_url("kafka+tls://me:s%40cret@a:1,b:2?compression=lz4")
    assert settings.bootstrap_servers == "a:1,b:2"
    assert settings.client_config()["sasl.password"] == "s@cret"
    assert settings.security_protocol == "SASL_SSL"
    assert "s@cret" not in repr(settings)
    with pytest.raises(ValidationError, match="reserved"):
        KafkaSettings(client_options={"message.timeout.ms": 5})
    assert "s3cret" not in repr(KafkaSettings(client_options={"sasl.oauthbearer.client.secret": "s3cret"}))
