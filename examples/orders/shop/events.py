"""What the services tell each other: the only module that both import."""

from __future__ import annotations

from pydantic import BaseModel

from eventbus_core import event_type


@event_type("shop.order.placed.v1", topic="orders", key="order")
class OrderPlaced(BaseModel):
    """A customer has ordered."""

    order: int
    email: str
    total_cents: int


@event_type("shop.confirmation.sent.v1", topic="confirmations", key="order")
class ConfirmationSent(BaseModel):
    """The customer has been written to."""

    order: int
