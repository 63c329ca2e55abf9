"""The URL of a bus on a broker of the tests."""

from tests.brokers import Broker


def bus_url(broker: Broker) -> str:
    """What `EventBus` and `--url` take."""
    match broker.name:
        case "kafka":
            return f"kafka://{broker.url}"
        case "pulsar":
            return f"{broker.url}?admin_url={broker.admin_url}"
        case _:
            return broker.url
