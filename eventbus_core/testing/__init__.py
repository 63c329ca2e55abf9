"""For tests of applications: a bus without a broker, whose handlers run when the test says so.

::

    from eventbus_core.testing import MemoryBus

    def test_a_paid_order_is_shipped():
        with MemoryBus(of=shop.bus) as bus:
            bus.publish(OrderPaid(order=1))
            bus.drain()  # runs the handlers, here and now
            assert [event.data for event in bus.published(OrderShipped)] == [OrderShipped(order=1)]

As a pytest fixture: name ``eventbus_core.testing.fixtures`` in ``pytest_plugins``.
"""

from eventbus_core.testing.memory_bus import MemoryBus

__all__ = ["MemoryBus"]
