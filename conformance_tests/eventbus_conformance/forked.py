"""A script: send, fork, and use in the child what the parent opened. Prints what happened in the child."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import traceback
from collections.abc import Callable

from eventbus_core import EventBus
from eventbus_core.errors import Forked


def main() -> None:
    """Arguments: URL and topic."""
    faulthandler.enable()  # a client library may crash in the child; where is all that could be told
    url, topic = sys.argv[1:]
    bus = EventBus(url)
    producer = bus.producer()
    producer.send(topic, b"parent", key=b"k").result(30)
    consumer = bus.consumer(topic, group=f"{topic}-forked")
    _leave_garbage(url)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _say_if_forked("send", lambda: producer.send(topic, b"never", key=b"k"))
            _say_if_forked("flush", lambda: producer.flush(5))
            _say_if_forked("receive", lambda: consumer.receive(timeout=1))
            gc.collect()  # must not end what is the parent's
            with bus.producer() as own:
                own.send(topic, b"child", key=b"k").result(30)
            print("own stored", flush=True)  # noqa: T201
            producer.close()
            consumer.close()
            code = 0
        except BaseException:  # noqa: BLE001  (a child must never run the parent's code)
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    producer.send(topic, b"parent again", key=b"k").result(30)
    bus.close()
    print("parent stored", flush=True)  # noqa: T201
    sys.exit(os.waitstatus_to_exitcode(status))


def _leave_garbage(url: str) -> None:
    """What an ordinary program has: clients that were closed, and are not collected yet."""
    gc.disable()
    with EventBus(url) as closed:
        closed.admin().topics()
    cycle: list[object] = [closed]
    cycle.append(cycle)


def _say_if_forked(name: str, use: Callable[[], object]) -> None:
    try:
        use()
    except Forked:
        print(name, "Forked", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
