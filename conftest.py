"""The real brokers as fixtures; `tests/brokers.py` says where they come from."""

import hypothesis
import pytest

from tests.brokers import Broker, broker

# A machine that is busy for a moment is no finding.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


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
