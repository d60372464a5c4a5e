"""The connection to Redis that is kept, with a real redis-server."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from processes import free_port, quiet_port
from redis_server import RedisServer
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import formatEvent
from twisted.python.failure import Failure
from upstream import until
from upstream.certificates import Authority

from pushd.errors import HistoryError
from pushd.redis.address import Address
from pushd.redis.client import (
    AGAIN_SECONDS,
    RETRY_SECONDS,
    Redis,
    RefusedError,
    Script,
    UnknownOutcomeError,
)

reactor: Any = _reactor


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def connected(
    url: str, timeout: float = 2.0, ca_file: str | None = None
) -> AsyncIterator[Redis]:
    """A client that has been started, and is stopped in the end."""
    address = Address.parse(url)
    endpoint = address.endpoint(reactor, timeout, ca_file)
    redis = Redis(reactor, address, endpoint, "test", timeout)
    redis.start()
    try:
        yield redis
    finally:
        await redis.stop()


async def told(redis: Redis) -> str:
    """Why the client has no connection, when it is told next."""
    reasons: list[str] = []
    redis.lost.append(reasons.append)
    await until(lambda: reasons)
    redis.lost.remove(reasons.append)
    return reasons[0]


def logged(capture: list[dict[str, Any]]) -> str:
    return "\n".join(str(event) for event in capture)


async def test_commands_are_answered_in_the_kinds_that_redis_has(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        assert await redis.call("PING") == b"PONG"
        assert await redis.call("INCR", "n") == 1
        assert await redis.call("GET", "nothing") is None
        await redis.call("RPUSH", "list", "ü", b"\x00", 3)
        assert await redis.call("LRANGE", "list", 0, -1) == ["ü".encode(), b"\x00", b"3"]


async def test_what_redis_refuses_is_an_error_for_anybody(
    server: RedisServer, capture: list[dict[str, Any]]
) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 1)
    async with connected(server.url) as redis:
        with pytest.raises(RefusedError, match=r"^Redis is out of memory\.$") as refused:
            await redis.call("SET", "a", "b")
        assert refused.value.code == "OOM"
        with pytest.raises(RefusedError, match=r"^Redis answered with an error\.$"):
            await redis.call("NONSENSE", "what was published")
        assert await redis.call("GET", "a") is None
    assert "OOM command not allowed" in logged(capture)
    assert "what was published" not in "".join(str(e.get("complaint")) for e in capture)


async def test_a_command_waits_for_the_connection(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with connected(server.url, timeout=5) as redis:
        answers = [redis.call("INCR", "n"), redis.call("INCR", "n")]
        assert "cannot be reached" in await told(redis)
        with server:
            assert [await answer for answer in answers] == [1, 2]


async def test_a_command_waits_no_longer_than_its_deadline_and_is_not_sent_later(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path)
    async with connected(server.url, timeout=0.2) as redis:
        with pytest.raises(HistoryError, match=r"^Redis cannot be reached\.$") as failed:
            await redis.call("INCR", "n")
        assert not isinstance(failed.value, UnknownOutcomeError)
        with server:
            assert await redis.call("GET", "n", timeout=5.0) is None


async def test_who_says_that_it_may_take_longer_waits_longer(server: RedisServer) -> None:
    async with connected(server.url, timeout=0.2) as redis:
        assert await redis.call("BLPOP", "nothing", 0.4, timeout=5.0) is None
        assert await redis.call("PING") == b"PONG"


async def test_a_reply_that_nobody_waits_for_any_more_is_no_error(
    server: RedisServer, capture: list[dict[str, Any]]
) -> None:
    async with connected(server.url, timeout=0.5) as redis:
        await redis.call("PING")
        left = redis.call("INCR", "n").addErrback(lambda _: None)
        left.cancel()
        assert await redis.call("GET", "n") == b"1"
        with pytest.raises(UnknownOutcomeError):
            await redis.call("BLPOP", "nothing", 5)
        del left
    gc.collect()
    assert not any("log_failure" in event for event in capture), logged(capture)


async def test_what_is_taken_back_is_not_sent(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with connected(server.url) as redis:
        taken_back = redis.call("INCR", "n").addErrback(lambda _: None)
        taken_back.cancel()
        with server:
            assert await redis.call("GET", "n") is None


async def test_nothing_is_sent_a_second_time_after_the_connection_was_lost(
    server: RedisServer,
) -> None:
    async with connected(server.url) as redis:
        assert await redis.call("PING") == b"PONG"
        server.halt()
        sent = redis.call("INCR", "n")
        await until(lambda: not sent.called)
        redis.reconnect()
        with pytest.raises(UnknownOutcomeError):
            await sent
        server.proceed()
        # Redis had it, and does it when it goes on.
        assert await redis.call("INCR", "n") in (1, 2)
        assert int(await redis.call("GET", "n")) in (1, 2)


async def test_a_redis_that_does_not_answer_is_left_and_found_again(server: RedisServer) -> None:
    async with connected(server.url, timeout=0.3) as redis:
        await redis.call("SET", "n", 1)
        server.halt()
        with pytest.raises(UnknownOutcomeError, match="in time"):
            await redis.call("GET", "n")
        assert not redis.connected
        with pytest.raises(HistoryError, match="cannot be reached"):
            await redis.call("GET", "n")
        server.proceed()
        assert await redis.call("GET", "n", timeout=5.0) == b"1"


async def test_who_wants_to_know_is_told_of_every_connection(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        said: list[str] = []
        redis.made.append(lambda: said.append("made"))
        redis.lost.append(said.append)
        await redis.call("PING")
        server.end()
        await until(lambda: "cannot be reached" in said[-1])
        assert said[:2] == ["made", "The connection to Redis was lost."]
        server.begin()
        await until(lambda: said[-1] == "made", seconds=5)


async def test_who_is_told_of_a_connection_speaks_before_those_who_waited(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with connected(server.url) as redis:
        redis.made.append(lambda: redis.call("SET", "n", 41))
        waited = redis.call("INCR", "n")
        with server:
            assert await waited == 42


@pytest.mark.parametrize(
    ("credentials", "acl"),
    [
        (":hunter2", ["requirepass", "hunter2"]),
        ("default:hunter2", ["requirepass", "hunter2"]),
        ("app:p%40ss%2Fword", ["user", "app on >p@ss/word ~* +@all"]),
    ],
)
async def test_it_says_who_it_is(tmp_path: Path, credentials: str, acl: list[str]) -> None:
    name, value = acl
    with RedisServer(tmp_path, f"--{name}", *value.split(" ")) as server:
        async with connected(f"redis://{credentials}@127.0.0.1:{server.port}/3") as redis:
            assert await redis.call("PING") == b"PONG"
            assert b"db=3" in await redis.call("CLIENT", "INFO")


async def test_a_wrong_password_is_told_and_never_logged_and_may_become_right(
    tmp_path: Path, capture: list[dict[str, Any]]
) -> None:
    with RedisServer(tmp_path, "--requirepass", "other") as server:
        async with connected(f"redis://:hunter2@127.0.0.1:{server.port}") as redis:
            assert await told(redis) == "Redis does not accept the user and password."
            server.ask("CONFIG", "SET", "requirepass", "hunter2", auth="other")
            assert await redis.call("PING") == b"PONG"
    assert "WRONGPASS" in logged(capture)
    assert "hunter2" not in logged(capture)


async def test_a_password_that_is_missing_is_told(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "other") as server:
        async with connected(server.url) as redis:
            assert await told(redis) == "Redis wants a password."


async def test_a_server_that_does_not_know_auth_does_not_get_the_password_into_the_log(
    tmp_path: Path, capture: list[dict[str, Any]]
) -> None:
    with RedisServer(tmp_path, "--rename-command", "AUTH", "") as server:
        async with connected(f"redis://:hunter2@127.0.0.1:{server.port}") as redis:
            assert await told(redis) == "Redis does not accept the user and password."
    assert "hunter2" not in logged(capture)


async def test_a_user_who_may_too_little_is_told(tmp_path: Path) -> None:
    with RedisServer(
        tmp_path, "--user", "app", "on", ">word", "~test:*", "+get", "+ping"
    ) as server:
        async with connected(f"redis://app:word@127.0.0.1:{server.port}") as redis:
            with pytest.raises(RefusedError, match="does not allow pushd's user"):
                await redis.call("GET", "n")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def encrypted(tmp_path: Path, authority: Authority) -> Iterator[RedisServer]:
    identity = authority.issue("localhost")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "cert.pem").write_bytes(identity.pem)
    (tmp_path / "key.pem").write_bytes(identity.key)
    files = {"ca-cert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", file)]
    options += ["--tls-auth-clients", "no", "--tls-port", str(free_port())]
    with RedisServer(tmp_path, *options, port=0) as server:
        yield server


async def test_tls_with_an_authority_of_ones_own(encrypted: RedisServer, tmp_path: Path) -> None:
    url = f"rediss://localhost:{encrypted.listens_at}"
    async with connected(url, ca_file=str(tmp_path / "ca.pem")) as redis:
        assert await redis.call("PING") == b"PONG"


async def test_a_server_that_does_not_prove_its_name_is_not_spoken_to(
    encrypted: RedisServer, tmp_path: Path
) -> None:
    port = encrypted.listens_at
    async with connected(f"rediss://localhost:{port}") as redis:
        assert await told(redis) == "There is no trusted TLS connection to Redis."
    async with connected(f"rediss://127.0.0.1:{port}", ca_file=str(tmp_path / "ca.pem")) as redis:
        assert await told(redis) == "Redis's certificate is for another host name."


async def test_a_unix_socket(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer(tmp_path, "--unixsocket", str(socket)):
        async with connected(f"unix://{socket}") as redis:
            assert await redis.call("PING") == b"PONG"


async def test_a_script_that_redis_does_not_know_is_shown_to_it(
    server: RedisServer, capture: list[dict[str, Any]]
) -> None:
    script = Script("return {KEYS[1], ARGV[1], ARGV[2]}")
    async with connected(server.url) as redis:
        for _ in range(2):
            assert await redis.run(script, ["k"], "a", 1) == [b"k", b"a", b"1"]
        server.ask("SCRIPT", "FLUSH")
        assert await redis.run(script, ["k"], "a", 1) == [b"k", b"a", b"1"]
        assert not capture, "which is nothing to complain of"
        with pytest.raises(RefusedError):
            await redis.run(Script("nonsense"), [])


async def test_a_script_that_fails_in_the_middle_is_not_run_again(server: RedisServer) -> None:
    script = Script("redis.call('INCR', KEYS[1]); return redis.error_reply('HALF of it')")
    async with connected(server.url) as redis:
        for times in (b"1", b"2"):
            with pytest.raises(RefusedError):
                await redis.run(script, ["n"])
            assert await redis.call("GET", "n") == times


async def test_a_replica_is_left_for_whoever_is_behind_the_address_then(
    server: RedisServer,
) -> None:
    async with connected(server.url) as redis:
        made: list[int] = []
        redis.made.append(lambda: made.append(1))
        await redis.call("SET", "n", 1)
        server.ask("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(RefusedError, match="replica"):
            await redis.call("SET", "n", 2)
        server.ask("REPLICAOF", "NO", "ONE")
        await redis.call("SET", "n", 3)
        assert len(made) == 2


async def test_keys_share_a_slot_of_a_cluster(tmp_path: Path) -> None:
    # Nodes of a cluster talk to each other at a port that is higher by 10,000.
    with RedisServer(tmp_path, "--cluster-enabled", "yes", port=quiet_port(also=10_000)) as server:
        async with connected(server.url) as redis:
            assert redis.key("lease", "a/b") == "{test}:lease:a/b"
            keys = [redis.key("lease", "a"), redis.key("log")]
            one, other = [await redis.call("CLUSTER", "KEYSLOT", key) for key in keys]
            assert one == other


class Says(Protocol):
    """What is no Redis: answers everything with the same."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def dataReceived(self, _: bytes) -> None:
        self.transport.write(self.answer)  # type: ignore[union-attr]


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that says this, whatever it is asked."""
    factory = Factory.forProtocol(lambda: Says(answer))  # type: ignore[arg-type]
    factory.noisy = False
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    yield f"redis://127.0.0.1:{port.getHost().port}"
    await port.stopListening()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "Redis is still reading its data.",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "What answers there is no Redis."),
        (b"+PONG\r\n+PONG\r\n+PONG\r\n", "The connection to Redis was lost."),
        (b"", "Redis does not answer."),
    ],
)
async def test_what_cannot_be_used_is_told(answer: bytes, reason: str) -> None:
    async with saying(answer) as url, connected(url, timeout=0.2) as redis:
        assert await told(redis) == reason


async def test_the_log_says_for_how_long_it_was_waited(capture: list[dict[str, Any]]) -> None:
    async with saying(b"") as url, connected(url, timeout=0.2) as redis:
        await told(redis)
    assert "Redis does not answer. (not within 0.2 s)" in logged(capture)


async def test_what_waits_fails_when_pushd_ends(tmp_path: Path) -> None:
    async with connected(RedisServer(tmp_path).url) as redis:
        waiting: Deferred[object] = redis.call("PING")
    with pytest.raises(HistoryError, match="ending"):
        await waiting


# On a clock: when it connects again, and what the log says meanwhile.


class Wire(StringTransport):
    """To a Redis that answers everything with the same, in the next turn."""

    def __init__(self, far: Far, protocol: Any) -> None:
        super().__init__()
        self._far = far
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._far.answer:
            self._far.clock.callLater(0, self._protocol.dataReceived, self._far.answer)

    def abortConnection(self) -> None:
        super().abortConnection()
        self.lose()

    def lose(self) -> None:
        self._protocol.connectionLost(Failure(ConnectionDone()))


class Far:
    """
    A Redis far away, as an endpoint.

    :ivar answer: to whatever it is asked; None for none, to connecting neither.
    :ivar tried: when it was connected to.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.answer: bytes | None = None
        self.tried: list[float] = []
        self.wires: list[Wire] = []
        address = Address.parse("redis://redis.example")
        self.redis = Redis(self.clock, address, self, "test", 5.0)  # type: ignore[arg-type]

    def connect(self, factory: Factory) -> Deferred[Any]:
        self.tried.append(self.clock.seconds())
        if self.answer is None:
            return fail(ConnectionRefusedError())
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.wires.append(Wire(self, protocol))
        protocol.makeConnection(self.wires[-1])  # type: ignore[union-attr]
        return succeed(protocol)

    def wait(self, seconds: float) -> None:
        self.clock.pump([1 / 64] * round(seconds * 64))


@pytest.fixture
def far() -> Far:
    far = Far()
    far.redis.start()
    return far


def test_it_is_tried_again_later_and_later_up_to_a_bound(far: Far) -> None:
    far.wait(300)
    first, most = RETRY_SECONDS
    pauses = [after - before for before, after in pairwise(far.tried)]
    for number, pause in enumerate(pauses):
        wait = min(first * 2**number, most)
        assert wait / 2 <= pause <= wait + 1 / 32
    assert max(pauses[10:]) - min(pauses[10:]) > most / 4, "nodes come back apart"


def test_once_it_was_there_it_is_tried_soon_again(far: Far) -> None:
    far.wait(100)
    far.answer = b"+PONG\r\n"
    far.wait(RETRY_SECONDS[1])
    assert far.redis.connected
    far.answer, before = None, len(far.tried)
    far.wires[-1].lose()
    assert not far.redis.connected
    far.wait(RETRY_SECONDS[0] + 1 / 32)
    assert len(far.tried) == before + 1


def test_what_is_asked_when_it_was_lost_waits_for_the_next_connection(far: Far) -> None:
    far.answer = b"+PONG\r\n"
    far.wait(RETRY_SECONDS[1])
    far.wires[-1].lose()
    answers: list[Any] = []
    far.redis.call("PING").addBoth(answers.append)
    assert answers == []
    far.wait(RETRY_SECONDS[1])
    assert answers == [b"PONG"] and len(far.wires) == 2


def test_a_connection_that_is_of_no_use_is_closed(far: Far) -> None:
    far.answer = b"-LOADING Redis is loading the dataset in memory\r\n"
    far.wait(10)
    assert len(far.wires) > 3
    assert all(wire.disconnected for wire in far.wires)


def test_the_log_says_what_is_new_at_once_and_what_goes_on_once_in_a_while(
    capture: list[dict[str, Any]], far: Far
) -> None:
    def said() -> list[str]:
        new = [
            formatEvent(event).removeprefix("redis://redis.example:6379/0: ") for event in capture
        ]
        capture.clear()
        return [text.partition(" (")[0].partition(" to ")[0] for text in new]

    unreachable, loading = "Redis cannot be reached.", "Redis is still reading its data."
    far.wait(2 * AGAIN_SECONDS + 10)
    assert said() == [unreachable] * 3
    far.answer = b"-LOADING Redis is loading the dataset in memory\r\n"
    far.wait(10)
    assert said() == [loading]
    far.answer = b"+PONG\r\n"
    far.wait(10)
    assert said() == ["connected"]
    for _ in range(2):
        far.answer = None
        far.wires[-1].lose()
        far.wait(5)
        far.answer = b"+PONG\r\n"
        far.wait(5)
    assert said() == [unreachable, "connected"] * 2
