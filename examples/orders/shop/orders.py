"""The order service: places orders, and marks those that are confirmed.

eventbus run shop.orders:bus              handles events
python -m shop.orders place ada@example.org bob@example.org
python -m shop.orders show
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing

from eventbus_core import Event, EventBus
from shop.events import ConfirmationSent, OrderPlaced

bus = EventBus()


def database() -> sqlite3.Connection:
    """The service's own database; nobody else reads it."""
    connection = sqlite3.connect(os.environ.get("SHOP_DATABASE", "orders.db"), timeout=10)
    connection.execute("create table if not exists orders (number integer primary key, email text, confirmed integer)")
    return connection


def place(email: str, total_cents: int) -> int:
    """Place an order and announce it; its number."""
    with closing(database()) as db:
        with db:
            number = db.execute("insert into orders (email, confirmed) values (?, 0)", (email,)).lastrowid
        assert number is not None
        # Returns when the broker has it. A crash between the two lines loses the announcement, not the order.
        bus.publish(OrderPlaced(order=number, email=email, total_cents=total_cents)).result()
        return number


@bus.subscribe(ConfirmationSent, group="orders")
def mark_confirmed(event: Event[ConfirmationSent]) -> None:
    """Setting the same mark twice does no harm, and that is what at-least-once asks of a handler."""
    with closing(database()) as db, db:
        db.execute("update orders set confirmed = 1 where number = ?", (event.data.order,))


def main(arguments: list[str]) -> None:
    """The command line."""
    match arguments:
        case ["place", *emails]:
            for email in emails:
                print(f"order {place(email, total_cents=4200)} for {email}")
        case _:
            with closing(database()) as db:
                for number, email, confirmed in db.execute("select * from orders order by number"):
                    print(number, email, "confirmed" if confirmed else "open")


if __name__ == "__main__":
    with bus:
        main(sys.argv[1:])
