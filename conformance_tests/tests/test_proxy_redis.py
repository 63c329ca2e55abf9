"""The proxy in front of a real Redis."""

import uuid

import pytest
import redis

from eventbus_conformance.proxy import Address, Proxy
from tests.brokers import broker

SECONDS = 5.0


def test_a_redis_client_loses_exactly_one_reply() -> None:
    with Proxy(Address.of(broker("redis").url)) as proxy:
        connection = redis.Redis(*proxy.address, socket_timeout=SECONDS, retry=None)
        key = f"proxy-{uuid.uuid4().hex}"
        try:
            assert connection.incr(key) == 1
            proxy.drop_reply(lambda reply: reply == b":2\r\n")
            with pytest.raises(redis.ConnectionError):
                connection.incr(key)
            assert connection.incr(key) == 3, "the request of the lost reply had been carried out"
            assert proxy.counts.dropped == 1
            proxy.silence("to broker")
            impatient = redis.Redis(*proxy.address, socket_timeout=0.3, retry=None)
            with pytest.raises(redis.TimeoutError):
                impatient.incr(key)
            impatient.close()
            proxy.heal()
            assert connection.incr(key) in {4, 5}
            assert proxy.refuse() > 0
            with pytest.raises(redis.ConnectionError):
                connection.incr(key)
        finally:
            proxy.heal()
            connection.delete(key)
            connection.close()
