"""The broker that the conformance harness starts."""

from __future__ import annotations

import os

import pytest

from eventbus_conformance.containers import DockerBroker
from eventbus_core import EventBus
from eventbus_pulsar.conformance import IMAGE, PulsarHarness
from tests.brokers import Broker


def address_of(broker: DockerBroker) -> str:
    """Where it lies in Docker's network."""
    container = broker._container
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


@pytest.mark.timeout(300)
def test_a_killed_broker_keeps_its_data_when_docker_gives_it_another_address(pulsar_broker: Broker) -> None:
    if not pulsar_broker.controllable:
        pytest.skip("this run was given a broker by address")
    harness = PulsarHarness()
    harness.up()
    image = os.environ.get("EVENTBUS_TEST_PULSAR_IMAGE", IMAGE)
    # Docker gives the lowest free address, which may be that of a container which was removed meanwhile.
    squatters = [DockerBroker(image, ports={}, command=["sleep", "600"], answers=lambda: True) for _ in range(5)]
    try:
        assert isinstance(harness.controls, DockerBroker)
        with EventBus(harness.url()) as bus:
            bus.admin().create_topic("kept", 1)
            bus.producer().send("kept", b"before", key=b"k").result(30)
        before = address_of(harness.controls)
        harness.controls.kill()
        for squatter in squatters:
            squatter.up()
            if address_of(squatter) == before:
                break
        harness.controls.start()
        assert address_of(harness.controls) != before
        with EventBus(harness.url()) as bus:
            bus.producer().send("kept", b"after", key=b"k").result(30)
        assert [each.value for each in harness.raw_read("kept", 0)] == [b"before", b"after"]
    finally:
        for squatter in squatters:
            squatter.remove()
        harness.down()
