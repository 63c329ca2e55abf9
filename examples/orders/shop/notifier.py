"""The notifier: writes to customers. The mail server is flaky, and some addresses are wrong.

eventbus run shop.notifier:bus
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from eventbus_core import Event, EventBus, Retry
from shop.events import ConfirmationSent, OrderPlaced

bus = EventBus()


class BadAddress(Exception):
    """No attempt will ever reach it."""


def send_mail(address: str, text: str, *, attempt: int) -> None:
    """Stands for a mail server: down for the first attempt of every fourth customer; refuses what is no address."""
    if "@" not in address:
        raise BadAddress(f"{address!r} is no address")
    if len(address) % 4 == 0 and attempt == 1:
        raise ConnectionError("the mail server hung up")
    with Path(os.environ.get("SHOP_OUTBOX", "outbox.txt")).open("a") as outbox:
        outbox.write(f"{address}: {text}\n")


@bus.subscribe(
    OrderPlaced,
    group="notifier",
    retry=Retry(attempts=4, first_delay=timedelta(milliseconds=100), never=(BadAddress,)),
)
def confirm(event: Event[OrderPlaced]) -> None:
    """Tried again after a ConnectionError; a BadAddress goes to the dead letters at once."""
    order = event.data
    send_mail(order.email, f"thank you for order {order.order}", attempt=event.attempt)
    bus.publish(ConfirmationSent(order=order.order)).result()
