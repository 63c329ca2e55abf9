"""Runs the suite on the backends of this repository; `-m kafka` or `-k memory` chooses one."""

from typing import Literal, cast

import pytest

from eventbus_conformance.fixtures import *  # noqa: F403
from eventbus_conformance.fixtures import BackendUnderTest
from tests.brokers import Broker
from tests.brokers import broker as find_broker
from tests.bus_urls import bus_url as url_of

Backend = Literal["memory", "redis", "redis7", "kafka", "pulsar"]

#: Sessions and leases as short as is sound, so that takeovers do not make the tests slow.
QUICK = {
    "redis": "lease_seconds=3",
    "redis7": "lease_seconds=3",
    "kafka": "session_timeout_seconds=6",
    "pulsar": "lease_seconds=3",
}

AWAY = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
NOBODY = {
    "redis": f"redis://127.0.0.1:1?{AWAY}",
    "redis7": f"redis://127.0.0.1:1?{AWAY}",
    "kafka": f"kafka://127.0.0.1:1?{AWAY}",
    "pulsar": f"pulsar://127.0.0.1:1?admin_url=http://127.0.0.1:1&{AWAY}",
}


def pytest_configure(config: pytest.Config) -> None:
    for name in ("memory", *QUICK):
        config.addinivalue_line("markers", f"{name}: runs on {name}")


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=getattr(pytest.mark, name), id=name) for name in ("memory", *QUICK)],
)
def backend_under_test(request: pytest.FixtureRequest) -> BackendUnderTest:
    name = cast("Backend", request.param)
    if name == "memory":
        return BackendUnderTest("memory://conformance?create_topics=false")
    broker: Broker = find_broker(name)
    url = url_of(broker)
    url += ("&" if "?" in url else "?") + QUICK[name]
    return BackendUnderTest(url, NOBODY[name], broker if broker.controllable else None)
