"""Who asks, whether there is room for them, and what those hear for whom there is none."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader import Parser
from served import Connection, Served
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers
from upstream import until

from pushd.errors import BusyError
from pushd.web.admission import SPARE_CONNECTIONS, Admission, Seat

PROXIES = ("127.0.0.0/8", "::1", "192.0.2.0/24", "2001:db8:1::/48")


class Asked:
    """A request, as far as admission looks at it."""

    def __init__(self, address: IAddress, *forwarded: str) -> None:
        self._address = address
        self.requestHeaders = Headers()
        for value in forwarded:
            self.requestHeaders.addRawHeader(b"X-Forwarded-For", value.encode("latin-1"))

    def getClientAddress(self) -> IAddress:
        return self._address


def tcp(host: str) -> IAddress:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, 40_000)


def request(host: str, *forwarded: str) -> Any:
    return Asked(tcp(host), *forwarded)


def admission(clients: int = 1000, each: int = 1000) -> Admission:
    return Admission(clients, each, PROXIES)


def empty(house: Admission) -> bool:
    return (
        house.streams == house.connections == 0
        and not house.streams_by_network
        and not house.connections_by_network
    )


@pytest.mark.parametrize(
    ("host", "forwarded", "peer"),
    [
        ("198.51.100.7", (), "198.51.100.7"),
        ("198.51.100.7", ("203.0.113.5",), "198.51.100.7"),
        ("2001:DB8::7", (), "2001:db8::7"),
        ("::ffff:198.51.100.7", (), "198.51.100.7"),
        ("fe80::1%eth0", (), "fe80::1"),
        ("PROXY's nonsense\r\n", (), "unknown"),
        ("127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("",), "127.0.0.1"),
        ("127.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("::1", ("203.0.113.5",), "203.0.113.5"),
        ("::ffff:127.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("127.0.0.1", ("198.51.100.9, 203.0.113.5",), "203.0.113.5"),
        ("127.0.0.1", ("198.51.100.9", "203.0.113.5"), "203.0.113.5"),
        ("127.0.0.1", ("203.0.113.5, 192.0.2.1 ,127.0.0.1",), "203.0.113.5"),
        ("127.0.0.1", ("203.0.113.5", "192.0.2.1"), "203.0.113.5"),
        ("127.0.0.1", ("192.0.2.2, 192.0.2.1",), "192.0.2.2"),
        ("127.0.0.1", ("nonsense, 203.0.113.5",), "203.0.113.5"),
        ("127.0.0.1", ("203.0.113.5, nonsense",), "127.0.0.1"),
        ("127.0.0.1", ("203.0.113.5, nonsense, 192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("203.0.113.5,,192.0.2.1",), "192.0.2.1"),
        ("127.0.0.1", ("::ffff:203.0.113.5",), "203.0.113.5"),
        ("127.0.0.1", ("2001:db8:1::1, ::1",), "2001:db8:1::1"),
        ("127.0.0.1", ("2001:db8::5, 2001:db8:1::1",), "2001:db8::5"),
        ("127.0.0.1", ("203.0.113.5:4711",), "203.0.113.5"),
        ("127.0.0.1", ("[2001:db8::5]:4711",), "2001:db8::5"),
        ("127.0.0.1", ("[2001:db8::5]",), "2001:db8::5"),
        ("127.0.0.1", ("[]:1",), "127.0.0.1"),
        ("127.0.0.1", ("fe80::1%a b",), "127.0.0.1"),
        ("127.0.0.1", ("203.0.113.005",), "127.0.0.1"),
        ("127.0.0.1", ("unknown",), "127.0.0.1"),
        ("127.0.0.1", ("\xff\xfe",), "127.0.0.1"),
        ("127.0.0.1", ("1" * 10_000,), "127.0.0.1"),
    ],
)
def test_a_client_is_who_our_proxies_say(host: str, forwarded: tuple[str, ...], peer: str) -> None:
    house = admission()
    assert house.peer(request(host, *forwarded)) == peer
    assert house.admit(request(host, *forwarded)).peer == peer


def test_whoever_comes_by_a_unix_socket_is_believed() -> None:
    house = admission(each=1)
    local: Any = Asked(UNIXAddress("/run/pushd.sock"))
    assert house.peer(local) == "unix"
    assert [house.admit(local).peer for _ in range(3)] == ["unix"] * 3
    proxied: Any = Asked(UNIXAddress(""), "203.0.113.5")
    assert house.peer(proxied) == "203.0.113.5"


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0")))
def test_whatever_is_forwarded_a_log_can_hold_it(said: str) -> None:
    peer = admission().peer(request("127.0.0.1", said))
    assert re.fullmatch("[0-9a-f:.]+", peer)


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    house = admission()
    for n in range(10_000):
        house.peer(request("127.0.0.1", f"203.0.113.5, 198.51.{n >> 8}.{n & 255}"))
        house.peer(request("127.0.0.1", "x" * 100 + str(n)))
    remembered = house._known.cache_info()
    assert remembered.currsize == remembered.maxsize == 4096
    assert remembered.misses == 10_001


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("198.51.100.7", "198.51.100.7", "198.51.100.8"),
        ("198.51.100.7", "::ffff:198.51.100.7", "::ffff:198.51.100.8"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::2%eth1", "fe80:0:0:1::1"),
    ],
)
def test_an_address_has_so_many_streams_and_an_ipv6_network_of_64_bits_is_one(
    one: str, same: str, other: str
) -> None:
    house = admission(each=2)
    seats = [house.admit(request(one)), house.admit(request(same))]
    with pytest.raises(BusyError) as raised:
        house.admit(request(same))
    assert (raised.value.why, raised.value.status) == ("max_clients_per_peer", 503)
    seats.append(house.admit(request(other)))
    seats[0].leave()
    seats.append(house.admit(request(one)))
    for seat in seats:
        seat.leave()
    assert empty(house)


def test_there_are_so_many_streams_in_all_from_proxies_too() -> None:
    house = admission(clients=2, each=1)
    seats = [house.admit(request("127.0.0.1")), house.admit(request("127.0.0.1"))]
    with pytest.raises(BusyError) as raised:
        house.admit(request("198.51.100.7"))
    assert raised.value.why == "max_clients"
    for _ in range(2):
        seats[0].leave()
    assert house.streams == 1
    house.admit(request("198.51.100.7"))


def test_connections_are_counted_by_who_is_at_their_other_end() -> None:
    house = admission(each=2)
    most = 2 + SPARE_CONNECTIONS
    assert all(house.connected(tcp("198.51.100.7")) for _ in range(most))
    assert not house.connected(tcp("::ffff:198.51.100.7"))
    assert all(house.connected(tcp("127.0.0.1")) for _ in range(2 * most))
    assert house.connected(UNIXAddress(""))
    assert house.connections == 3 * most + 1
    house.disconnected(tcp("198.51.100.7"))
    assert house.connected(tcp("198.51.100.7"))
    for host in ["198.51.100.7"] * most + ["127.0.0.1"] * 2 * most:
        house.disconnected(tcp(host))
    house.disconnected(UNIXAddress(""))
    assert empty(house)


def test_somebody_is_told_when_there_are_enough_connections_and_when_no_more() -> None:
    house = admission()
    told: list[bool] = []
    house.watch(2, told.append)
    for _ in range(3):
        house.connected(tcp("198.51.100.7"))
    assert told == [True]
    house.disconnected(tcp("198.51.100.7"))
    assert told == [True]
    house.disconnected(tcp("198.51.100.7"))
    assert told == [True, False]
    house.watch(1, told.append)
    assert told == [True, False, True]


def test_nothing_is_kept_of_who_has_left_however_they_came_and_went() -> None:
    chance = random.Random(1)
    house = admission(clients=40, each=3)
    seats: list[Seat] = []
    open: list[IAddress] = []
    for _ in range(20_000):
        host = f"198.51.100.{chance.randrange(30)}" if chance.random() < 0.5 else "127.0.0.1"
        if chance.random() < 0.5 or not seats:
            with suppress(BusyError):
                seats.append(house.admit(request(host)))
            if house.connected(tcp(host)):
                open.append(tcp(host))
        else:
            seats.pop(chance.randrange(len(seats))).leave()
            house.disconnected(open.pop(chance.randrange(len(open))))
        assert house.streams == len(seats) == sum(house.streams_by_network.values()) <= 40
        assert house.connections == len(open) == sum(house.connections_by_network.values())
    for seat in seats:
        seat.leave()
    for address in open:
        house.disconnected(address)
    assert empty(house)


# What clients hear.

CONFIG = """
[server]
max_clients = {clients}
max_clients_per_peer = {each}
trusted_proxies = [{trusted}]
retry_when_busy = 7
cors_origins = ["https://app.example"]
[publish]
tokens = ["secret"]
topics = ["news", "other"]
"""


def serve(clients: int = 2, each: int = 1000, trusted: str = '"127.0.0.0/8"') -> Served:
    return Served(CONFIG.format(clients=clients, each=each, trusted=trusted))


async def sent_away(served: Served, target: str = "/topics/news", **headers: str) -> Connection:
    connection = await served.stream(target, **headers)
    await until(lambda: not connection.open)
    return connection


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/topics/news", {}),
        ("/topics/news", {"accept": "*/*"}),
        ("/topics/news?hello=1", {"accept": "text/event-stream"}),
        ("/events?topic=news&topic=other", {"last_event_id": "x"}),
    ],
)
async def test_a_stream_for_which_there_is_no_room_says_when_to_come_back(
    target: str, headers: dict[str, str]
) -> None:
    async with serve() as served:
        for _ in range(2):
            await served.stream("/topics/news")
        late = await sent_away(served, target, origin="https://app.example", **headers)
        assert re.fullmatch(rb"retry: (\d+)\n: [^\n]*\(max_clients\)\.\n", late.body)
        assert late.answer.headers["content-type"] == "text/event-stream"
        assert late.answer.headers["cache-control"] == "no-cache, no-transform"
        assert late.answer.headers["x-accel-buffering"] == "no"
        assert late.answer.headers["access-control-allow-origin"] == "https://app.example"
        assert not late.received.endswith(b"0\r\n\r\n")
        parser = Parser()
        assert parser.feed(late.body) == []
        assert parser.last_id == ""
        assert parser.retry is not None and 7000 <= parser.retry < 14_000
        assert served.daemon.metrics.refusals.labels("max_clients")._value.get() == 1


async def test_not_all_come_back_at_once() -> None:
    async with serve(clients=1) as served:
        await served.stream("/topics/news")
        times = {(await sent_away(served)).body.partition(b"\n")[0] for _ in range(5)}
        assert len(times) > 1


@pytest.mark.parametrize("leave", ["abortConnection", "loseConnection", "loseWriteConnection"])
async def test_whoever_leaves_makes_room(leave: str) -> None:
    async with serve(clients=1) as served:
        for _ in range(3):
            stream = await served.stream("/topics/news")
            await sent_away(served)
            getattr(stream.transport, leave)()
            await until(lambda: served.daemon.admission.streams == 0)
        assert empty_of_streams(served)


def empty_of_streams(served: Served) -> bool:
    house = served.daemon.admission
    return house.streams == 0 and not house.streams_by_network


async def test_streams_that_end_or_are_cut_make_room() -> None:
    async with serve(clients=3) as served:
        streams = [await served.stream("/topics/news") for _ in range(3)]
        served.daemon.hub.end(served.daemon.hub.topics["news"])
        assert empty_of_streams(served)
        await until(lambda: all(stream.received.endswith(b"0\r\n\r\n") for stream in streams))
    async with serve(clients=3) as served:
        streams = [await served.stream("/topics/news") for _ in range(3)]
        served.daemon.feeds.close()
        await until(lambda: not any(stream.open for stream in streams))
        assert empty_of_streams(served)


async def test_each_address_has_its_own_limit_and_so_have_clients_behind_a_proxy() -> None:
    async with serve(clients=100, each=1, trusted="") as served:
        await served.stream("/topics/news", x_forwarded_for="203.0.113.1")
        late = await sent_away(served, x_forwarded_for="203.0.113.2")
        assert b"max_clients_per_peer" in late.body
    async with serve(clients=100, each=1) as served:
        for _ in range(3):
            await served.stream("/topics/news")
        await served.stream("/topics/news", x_forwarded_for="spoofed, 203.0.113.1")
        await served.stream("/topics/news", x_forwarded_for="203.0.113.2")
        late = await sent_away(served, x_forwarded_for="203.0.113.3, 203.0.113.1")
        assert b"max_clients_per_peer" in late.body


async def test_documents_messages_and_heads_need_no_seat() -> None:
    async with serve(clients=1) as served:
        await served.stream("/topics/news")
        assert (await served.publish("news", b"1")).status == 201
        head = await served.ask("/topics/news", "HEAD")
        assert (head.status, head.raw_body) == (200, b"")
        assert head.headers["content-type"] == "text/event-stream"
        assert (await served.ask("/topics/news", accept="application/json")).status == 406
        assert (await served.ask("/topics/nope")).status == 404
        assert served.daemon.admission.streams == 1


async def test_who_is_sent_away_may_want_a_body_without_chunks() -> None:
    async with serve(clients=1) as served:
        await served.stream("/topics/news")
        for target, version in (("/topics/news?chunked=0", "1.1"), ("/topics/news", "1.0")):
            connection = await served.send(target, version=version)
            await until(lambda: not connection.open)  # noqa: B023
            assert connection.answer.status == 200
            assert "transfer-encoding" not in connection.answer.headers
            assert connection.answer.raw_body.startswith(b"retry: ")


async def test_the_proxy_protocol_tells_who_asks_and_only_our_proxies_are_believed() -> None:
    config = CONFIG.format(clients=100, each=1, trusted='"127.0.0.0/8"')
    async with Served(config, "haproxy:tcp:0:interface=127.0.0.1") as served:
        seats = served.daemon.admission.streams_by_network
        for source, network in (
            ("TCP4 203.0.113.1 127.0.0.1", "203.0.113.1"),
            ("TCP6 2001:db8::1 ::1", 0x20010DB8 << 32),
            ("TCP4 127.0.0.2 127.0.0.1", "203.0.113.9"),
        ):
            connection = await served.connect()
            assert connection.transport is not None
            connection.transport.write(f"PROXY {source} 4711 8080\r\n".encode())
            connection.ask("/topics/news", x_forwarded_for="203.0.113.9")
            await until(lambda: seats.get(network) == 1)  # noqa: B023
        for connection in served.connections:
            connection.abort()
        await until(lambda: not seats)
