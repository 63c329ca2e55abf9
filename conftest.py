"""The real brokers as fixtures; `tests/brokers.py` says where they come from."""

import pytest

from tests.brokers import Broker, broker


@pytest.fixture(scope="session")
def kafka_broker() -> Broker:
    return broker("kafka")


@pytest.fixture(scope="session")
def pulsar_broker() -> Broker:
    return broker("pulsar")


@pytest.fixture(scope="session")
def redis_broker() -> Broker:
    return broker("redis")


@pytest.fixture(scope="session")
def redis7_broker() -> Broker:
    return broker("redis7")
