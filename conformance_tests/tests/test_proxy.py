"""The proxy in front of a socket server."""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from eventbus_conformance.proxy import Address, Proxy
from eventbus_conformance.waiting import wait_until

SECONDS = 5.0


class Echo(socketserver.ThreadingTCPServer):
    """Answers each line with itself and notes what it received; says goodbye when the client has said all."""

    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoLines)
        self.received: list[bytes] = []
        self.resets = 0
        self.connections = 0

    @property
    def address(self) -> Address:
        return Address(*self.server_address)


class EchoLines(socketserver.StreamRequestHandler):
    server: Echo

    def handle(self) -> None:
        self.server.connections += 1
        try:
            for line in self.rfile:
                self.server.received.append(line)
                self.wfile.write(line)
        except ConnectionResetError:
            self.server.resets += 1
        else:
            self.wfile.write(b"goodbye\n")


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as made:
        yield made


class Client:
    """Speaks lines."""

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection(proxy.address, SECONDS)
        self._file = self.socket.makefile("rb")

    def say(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def hear(self, timeout: float = SECONDS) -> bytes:
        self.socket.settimeout(timeout)
        return self._file.readline().rstrip(b"\n")

    def ask(self, line: bytes) -> bytes:
        self.say(line)
        return self.hear()

    def hears_nothing(self) -> bool:
        self.socket.settimeout(0.2)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is None
        except TimeoutError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    with contextlib.closing(Client(proxy)) as made:
        yield made


def test_bytes_go_through_both_ways_in_order(client: Client, echo: Echo) -> None:
    lines = [str(number).encode() * 50 for number in range(2000)]
    sender = threading.Thread(target=lambda: [client.say(line) for line in lines])
    sender.start()
    assert [client.hear() for _ in lines] == lines
    sender.join()
    assert len(echo.received) == 2000


def test_more_than_fits_waits_and_arrives(client: Client, proxy: Proxy) -> None:
    proxy.silence("to client")
    line = b"x" * 100_000
    sender = threading.Thread(target=lambda: [client.say(line) for _ in range(100)])
    sender.start()
    wait_until(lambda: proxy.counts.held > 0, SECONDS, what="something is held")
    proxy.heal()
    assert [client.hear() for _ in range(100)] == [line] * 100
    sender.join()


def test_a_client_that_has_said_all_still_hears_the_rest(client: Client) -> None:
    client.say(b"last")
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.hear(), client.hear(), client.hear()] == [b"last", b"goodbye", b""]


def test_a_client_that_goes_takes_its_connection_along(proxy: Proxy) -> None:
    for number in range(3):
        with contextlib.closing(Client(proxy)) as client:
            assert client.ask(b"hello") == b"hello"
        assert proxy.counts.accepted == number + 1
    wait_until(lambda: proxy.open == 0, SECONDS, what="the connections have ended")
    assert proxy.counts.broken == 0


def test_a_cut_resets_both_ends_and_new_connections_are_welcome(proxy: Proxy, echo: Echo, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.hear()
    wait_until(lambda: echo.resets == 1, SECONDS, what="the broker's end is reset")
    with contextlib.closing(Client(proxy)) as other:
        assert other.ask(b"after") == b"after"
    assert (proxy.counts.broken, proxy.counts.accepted) == (1, 2)


def test_refusing_lasts_until_healed(proxy: Proxy, echo: Echo, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    assert proxy.refuse() == 1
    assert all(turned_away(proxy) for _ in range(3))
    assert echo.connections == 1
    proxy.heal()
    with contextlib.closing(Client(proxy)) as other:
        assert other.ask(b"after") == b"after"


def test_silence_towards_the_client(proxy: Proxy, echo: Echo, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    proxy.silence("to client")
    client.say(b"asked")
    wait_until(lambda: echo.received[-1:] == [b"asked\n"], SECONDS, what="the question arrives")
    wait_until(lambda: proxy.counts.held == 1, SECONDS, what="the reply is held")
    assert client.hears_nothing()
    proxy.heal()
    assert client.hear() == b"asked"


def test_silence_towards_the_broker(proxy: Proxy, echo: Echo, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    proxy.silence("to broker")
    client.say(b"asked")
    wait_until(lambda: proxy.counts.held == 1, SECONDS, what="the question is held")
    assert client.hears_nothing()
    with contextlib.closing(Client(proxy)) as other:
        other.say(b"new")
        assert other.hears_nothing()
        assert echo.connections == 1
        assert echo.received == [b"before\n"]
        proxy.heal()
        assert client.hear() == b"asked"
        assert other.hear() == b"new"


def test_in_silence_nobody_learns_that_a_connection_has_ended(proxy: Proxy, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    proxy.silence()
    client.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: proxy.counts.held == 1, SECONDS, what="the end is held")
    assert client.hears_nothing()
    proxy.heal()
    assert client.hear() == b"goodbye"


def test_a_connection_of_which_one_end_was_lost_in_silence_can_be_cut(proxy: Proxy, echo: Echo, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    proxy.silence()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    wait_until(lambda: proxy.counts.held == 1, SECONDS, what="the loss is held")
    assert proxy.cut() == 1
    assert proxy.open == 0
    wait_until(lambda: echo.resets == 1, SECONDS, what="the broker's end is reset")


@pytest.mark.parametrize(("ways", "least"), [("both", 0.4), ("to client", 0.2), ("to broker", 0.2)])
def test_delay(ways: str, least: float, proxy: Proxy, client: Client) -> None:
    assert client.ask(b"before") == b"before"
    proxy.delay(0.2, ways)  # type: ignore[arg-type]
    lines = [str(number).encode() for number in range(100)]
    started = said = time.monotonic()
    for line in lines:
        said = time.monotonic()
        client.say(line)
        threading.Event().wait(0.01)  # the proxy is to read each by itself
    assert [client.hear() for _ in lines] == lines
    heard = time.monotonic()
    assert heard - said >= least
    # All were on their way at once. A delay is no throttle: that would take 0.2 s for each.
    assert heard - started < least + 10
    proxy.heal()
    wait_until(lambda: _quick(client), SECONDS, what="the delay has ended")


def _quick(client: Client) -> bool:
    started = time.monotonic()
    return client.ask(b"now") == b"now" and time.monotonic() - started < 0.1


def test_exactly_one_reply_is_dropped(proxy: Proxy, echo: Echo, client: Client) -> None:
    proxy.drop_reply(lambda reply: b"drop" in reply, nth=2)
    assert client.ask(b"keep") == b"keep"
    assert client.ask(b"drop 1") == b"drop 1"
    assert client.ask(b"drop 2") == b""
    assert echo.received == [b"keep\n", b"drop 1\n", b"drop 2\n"]
    assert proxy.counts.dropped == 1
    with contextlib.closing(Client(proxy)) as other:
        assert other.ask(b"drop 3") == b"drop 3"
    assert proxy.counts.dropped == 1


def test_healing_forgets_what_was_to_be_dropped(proxy: Proxy, client: Client) -> None:
    proxy.drop_reply()
    proxy.heal()
    assert client.ask(b"hello") == b"hello"


def test_a_broker_that_starts_later_can_advertise_the_proxy() -> None:
    with Proxy() as proxy:
        assert turned_away(proxy)
        with Echo() as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            proxy.point_at(server.address)
            with contextlib.closing(Client(proxy)) as client:
                assert client.ask(str(proxy.address).encode()) == str(proxy.address).encode()
            server.shutdown()
            thread.join()


def test_a_broker_that_is_away_ends_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = Address(*nobody.getsockname())
    with Proxy(address) as proxy:
        assert turned_away(proxy)


def turned_away(proxy: Proxy) -> bool:
    # The reset may come at any moment: while the client connects already, as it speaks, or as it listens.
    try:
        with contextlib.closing(Client(proxy)) as client:
            return client.ask(b"hello") == b""
    except ConnectionError:
        return True


def assert_ended(client: Client) -> None:
    try:
        assert client.hear() == b""
    except ConnectionResetError:
        return


def test_the_broker_s_own_address_is_replaced(echo: Echo) -> None:
    announced = Address("127.0.0.1", 10000)
    with Proxy(echo.address, announced=announced) as proxy, contextlib.closing(Client(proxy)) as client:
        assert client.ask(b"I am 127.0.0.1:10000.") == f"I am {proxy.address}.".encode()
        assert echo.received == [b"I am 127.0.0.1:10000.\n"]
    with pytest.raises(ValueError, match="differ in length"):
        Proxy(echo.address, announced=Address("broker", 1))


def test_addresses_are_read_from_text() -> None:
    assert Address.of("pulsar://broker:6650/x") == Address.of("broker:6650") == ("broker", 6650)
    assert str(Address("broker", 6650)) == "broker:6650"
    with pytest.raises(ValueError, match="no address"):
        Address.of("broker")


def test_closing_leaves_nothing_behind(echo: Echo) -> None:
    before = threading.active_count()
    with Proxy(echo.address) as proxy:
        with contextlib.closing(Client(proxy)) as client:
            assert client.ask(b"hello") == b"hello"
            proxy.close()
            assert_ended(client)
        with pytest.raises(ConnectionRefusedError):
            Client(proxy)
    wait_until(lambda: threading.active_count() <= before, SECONDS, what="no thread is left")
