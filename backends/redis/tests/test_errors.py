from __future__ import annotations

import inspect
import re

import pytest
from redis import exceptions

from eventbus_core.errors import AccessDenied, BrokerError, EventBusError, Unavailable
from eventbus_redis.backend import RedisBackend
from eventbus_redis.errors import CLASSES, class_of, mapped
from eventbus_redis.settings import RedisSettings


def test_every_exception_of_the_client_is_mapped():
    found = {
        each
        for _, each in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(each, Exception) and each.__module__ == exceptions.__name__
    }
    assert len(found) > 30
    assert found - CLASSES.keys() == set()
    assert all(issubclass(each, EventBusError) for each in CLASSES.values())


def test_what_will_pass_is_retryable_and_what_will_not_is_not():
    assert class_of(exceptions.ResponseError("NOREPLICAS Not enough good replicas to write.")) is Unavailable
    assert class_of(exceptions.ResponseError("ERR unknown command")) is BrokerError
    assert class_of(exceptions.NoPermissionError("x")) is AccessDenied
    cause = exceptions.ReadOnlyError("You can't write against a read only replica.")
    error = mapped(cause, "writing", topic="t")
    assert error.retryable
    assert error.__cause__ is cause
    assert error.topic == "t"


def test_nobody_listening_is_unavailable():
    with pytest.raises(Unavailable):
        RedisBackend(RedisSettings(url="redis://127.0.0.1:1")).admin()


def test_a_wrong_password_is_denied_and_not_told(server_url):
    settings = RedisSettings.from_url(server_url.replace("redis://", "redis://nobody:s3cret@"))
    assert "s3cret" not in repr(settings)
    with pytest.raises(AccessDenied) as caught:
        RedisBackend(settings).admin()
    assert "s3cret" not in str(caught.value)


def test_a_user_without_permission_is_denied(bus):
    bus.raw.acl_setuser("eb-limited", enabled=True, passwords=["+pw"], keys=["other:*"], commands=["+@all"])
    try:
        with pytest.raises(AccessDenied, match="ACL"):
            bus.at(bus.url.replace("redis://", "redis://eb-limited:pw@")).admin().topics()
    finally:
        bus.raw.acl_deluser("eb-limited")


def test_an_evicting_server_is_refused(bus):
    bus.raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BrokerError, match=re.escape("maxmemory-policy is allkeys-lru")):
            bus.backend.admin()
    finally:
        bus.raw.config_set("maxmemory-policy", "noeviction")


def test_settings_errors_do_not_show_the_password():
    with pytest.raises(ValueError, match="scheme") as caught:
        RedisSettings(url="http://u:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_options_of_the_client_are_not_shown_and_cannot_replace_settings():
    settings = RedisSettings(client_options={"ssl_password": "s3cret", "socket_keepalive": True})
    assert "s3cret" not in repr(settings)
    for name in ("password", "socket_timeout", "decode_responses", "protocol"):
        with pytest.raises(ValueError, match=f"{name}: reserved") as caught:
            RedisSettings(client_options={name: "s3cret"})
        assert "s3cret" not in str(caught.value)
