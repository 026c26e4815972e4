"""Held connections in a whole tree, decided about from the command line and through the API behind it."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from symphony.api.events import EventFeed
from symphony.api.held import list_held, resolve_held
from symphony.config.model import TcpUpstream
from symphony.connection.ids import acceptor_of
from symphony.messages.events import Released, Suspended
from symphony.messages.held import HeldRoute
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.acceptor import wait_until
from tests.support.calls import Target, ask, client_context
from tests.support.follower import Follower
from tests.support.loops import eventually
from tests.support.named_services import NamedServices
from tests.support.peers import Background
from tests.support.ports import lasting_port
from tests.support.site import ended_by_reset
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import SteppedClient

HELD = "held.example.test"
PASSED = "passed.example.test"
BRIEF = "brief.example.test"
MANY = 2_000

CONFIG = """\
workers = {workers}
drain_timeout_ms = 20000
access_log = {{}}

[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "default.pem", private_key_file = "default.key" }}

[[routes]]
sni = "held.example.test"
suspended = true
suspend_timeout_ms = 60000

[[routes]]
sni = "passed.example.test"
suspended = true
terminate_tls = false
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {passed} }}]

[[routes]]
sni = "brief.example.test"
suspended = true
suspend_timeout_ms = 300
"""


@dataclass(frozen=True)
class Scene:
    symphony: SymphonyProcess
    services: NamedServices
    plain: int
    config: str
    made: dict[str, MadeCertificate]

    @property
    def runtime_dir(self) -> str:
        return str(self.symphony.runtime_dir)

    def target(self, name: str = HELD, certificate: str = "default") -> Target:
        return Target(
            self.symphony.port(), name, str(self.symphony.directory / f"{certificate}-authority.pem")
        )

    def call(self, name: str = HELD, certificate: str = "default") -> Background:
        """A client that asks the service behind for its name, once it is let through."""
        target = self.target(name, certificate)

        def ask_once() -> str:
            sock = socket.create_connection(("127.0.0.1", target.port), timeout=30)
            with client_context(target).wrap_socket(sock, server_hostname=name) as connection:
                return ask(connection)

        return Background(ask_once)

    def knock(self, name: str = HELD) -> socket.socket:
        """A client that has sent its ClientHello and goes no further."""
        sock = socket.create_connection(("127.0.0.1", self.symphony.port()), timeout=30)
        sock.sendall(SteppedClient(name).hello())
        return sock

    def held(self) -> list[dict[str, Any]]:
        """What ``symphony suspended --json`` lists."""
        done = self.symphony.command("suspended", "--json")
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def wait_held(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until `count` connections are held; return them."""
        wait_until(lambda: len(asyncio.run(list_held(self.runtime_dir)).held) == count, f"{count} are held")
        return self.held()


@contextmanager
def scene_of(workers: int = 2) -> Iterator[Scene]:
    made, files = {}, {}
    for name in ("default", "own"):
        authority = make_authority(f"{name} authority")
        made[name] = make_certificate([HELD, PASSED, BRIEF], authority=authority)
        files[f"{name}-authority.pem"] = authority.cert_pem
        files[f"{name}.pem"], files[f"{name}.key"] = made[name].chain_pem, made[name].key_pem
    with NamedServices() as services:
        config = CONFIG.format(workers=workers, passed=services.tls("passed", made["own"]))
        with running_symphony(config, files=files) as symphony:
            yield Scene(symphony, services, services.tcp("plain"), config, made)
            assert "Traceback" not in symphony.log
            assert "PRIVATE KEY" not in symphony.log


@pytest.fixture(scope="module")
def shared() -> Iterator[Scene]:
    with scene_of() as scene:
        yield scene


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    """The shared instance, with nothing held before or after."""
    assert shared.held() == []
    yield shared
    wait_until(lambda: shared.symphony.status().connections.active == 0, "all are over")


# From the command line


def test_a_held_connection_is_listed_and_forwarded(scene: Scene) -> None:
    call = scene.call()
    (row,) = scene.wait_held()
    assert row["sni"] == row["route"] == HELD
    assert (row["peer_ip"], row["listener"], row["timeout_ms"]) == ("127.0.0.1", "127.0.0.1:0", 60_000)
    assert len(row["ja3"]) == 32 and row["ja4"].startswith("t13d")
    assert scene.symphony.status().connections.held == 1
    page = scene.symphony.command("suspended")
    assert page.returncode == 0
    assert row["id"] in page.stdout and HELD in page.stdout and f"127.0.0.1:{row['peer_port']}" in page.stdout
    done = scene.symphony.command("resolve", row["id"], "--to", f"tcp://127.0.0.1:{scene.plain}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "forwarded\n", "")
    assert call.result() == "plain"
    assert scene.symphony.command("suspended").stdout == "no connection is held\n"

    def lines() -> list[dict[str, Any]]:
        return [line for line in scene.symphony.logged("connection") if line["id"] == row["id"]]

    wait_until(lines, "it has its line in the access log")
    (line,) = lines()
    assert line["held_ms"] > line["handshake_ms"] > 0
    assert line["duration_ms"] >= line["held_ms"] + line["handshake_ms"]


def test_forwarded_to_a_unix_socket_with_another_certificate(scene: Scene) -> None:
    directory = scene.symphony.directory
    call = scene.call(PASSED, certificate="own")
    (row,) = scene.wait_held()
    done = scene.symphony.command(
        "resolve", row["id"],
        "--to", f"unix:{scene.services.uds('socket')}", "--terminate",
        "--cert", str(directory / "own.pem"), "--key", str(directory / "own.key"),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "forwarded\n", "")
    assert call.result() == "socket"


@pytest.mark.parametrize("arguments", [["--release"], ["--passthrough", "--release"]])
def test_released_to_the_routes_own_upstream(scene: Scene, arguments: list[str]) -> None:
    call = scene.call(PASSED, certificate="own")  # the service's own, which is passed through
    (row,) = scene.wait_held()
    assert scene.symphony.command("resolve", row["id"], *arguments).stdout == "forwarded\n"
    assert call.result() == "passed"


def test_rejected(scene: Scene) -> None:
    with scene.knock() as sock:
        (row,) = scene.wait_held()
        done = scene.symphony.command("resolve", row["id"], "--reject")
        assert (done.returncode, done.stdout, done.stderr) == (0, "rejected\n", "")
        assert ended_by_reset(sock)
    again = scene.symphony.command("resolve", row["id"], "--reject")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"{row['id']} is not held, or not any more\n"


def test_unknown_ids(scene: Scene) -> None:
    for id in ("nobody", "", "0-000000000000-1", "99-000000000000-1", "../x-000000000000-1"):
        assert asyncio.run(resolve_held(scene.runtime_dir, id, None)) == "unknown"
    done = scene.symphony.command("resolve", "nobody", "--reject")
    assert (done.returncode, done.stderr) == (1, "nobody is not held, or not any more\n")


def test_what_cannot_be_used_is_refused_and_leaves_it_held(scene: Scene) -> None:
    directory = scene.symphony.directory
    with scene.knock() as sock:
        (row,) = scene.wait_held()

        def resolve(*arguments: str) -> tuple[int, str]:
            done = scene.symphony.command("resolve", row["id"], *arguments)
            assert "Traceback" not in done.stderr and "PRIVATE KEY-----" not in done.stderr
            return done.returncode, done.stderr

        def pair(cert: str, key: str) -> list[str]:
            return ["--cert", str(directory / cert), "--key", str(directory / key)]

        to = ["--to", f"tcp://127.0.0.1:{scene.plain}"]
        code, said = resolve("--release")
        assert code == 1 and said.startswith(f"{row['id']} is held on: no upstream is given")
        code, said = resolve(*to, *pair("own.pem", "default.key"))
        assert code == 2 and "does not match the certificate" in said and "default.key" in said
        assert [found["id"] for found in scene.held()] == [row["id"]]
        assert resolve("--reject") == (0, "")
        assert ended_by_reset(sock)


# What is followed


def test_following_tells_all_that_becomes_of_them(scene: Scene) -> None:
    with (
        scene.knock() as early,
        Follower(scene.symphony, "suspended", "--follow", "--json") as follower,
        Follower(scene.symphony, "events") as people,
    ):
        follower.wait(lambda events: len(events) == 1, "what was held before")
        wait_until(lambda: people.lines, "the same for people")
        early.close()
        follower.wait(lambda events: events[-1].get("how") == "left", "it has left")
        with scene.knock(BRIEF) as brief:
            assert ended_by_reset(brief)
        follower.wait(lambda events: events[-1].get("how") == "expired", "its time is over")
        half = scene.knock()
        follower.wait(lambda events: len(events) == 5, "it is held")
        half.shutdown(socket.SHUT_WR)
        follower.wait(lambda events: events[-1].get("how") == "left", "half of it has left")
        half.close()
        names = [(event["event"], event["id"]) for event in follower.events]
        assert [name for name, _ in names] == ["suspended", "released"] * 3
        assert names[0][1] == names[1][1] != names[2][1] == names[3][1]
        wait_until(lambda: len(people.lines) >= 6, "the same for people")
        id = names[0][1]
        assert people.lines[0].startswith(f"suspended {id} {HELD} from 127.0.0.1:")
        assert people.lines[1] == f"released {id} left"
        assert follower.end(signal.SIGINT) == (0, "")
        assert people.end(signal.SIGINT) == (0, "")


def test_a_server_name_cannot_write_on_the_terminal(scene: Scene) -> None:
    name = "\x1b[31mred.example.test"
    hello = SteppedClient("x" * len(name)).hello().replace(b"x" * len(name), name.encode())
    config = scene.config + '[[routes]]\nsni = ""\nsuspended = true\n'
    scene.symphony.config_file.write_text(config)
    try:
        assert scene.symphony.command("reload").returncode == 0
        with (
            socket.create_connection(("127.0.0.1", scene.symphony.port()), timeout=10) as sock,
            Follower(scene.symphony, "suspended", "--follow") as people,
        ):
            sock.sendall(hello)
            wait_until(lambda: people.lines, "it is told")
            assert "\x1b" not in people.lines[0] and "\\x1b[31mred.example.test" in people.lines[0]
            page = scene.symphony.command("suspended")
            assert "\x1b" not in page.stdout and "\\x1b[31mred" in page.stdout
    finally:
        scene.symphony.config_file.write_text(scene.config)
        assert scene.symphony.command("reload").returncode == 0


# Faults


def test_a_killed_acceptor_loses_what_it_held_and_that_is_told() -> None:
    with (
        scene_of() as scene,
        ExitStack() as stack,
        Follower(scene.symphony, "suspended", "--follow", "--json") as follower,
    ):
        clients: dict[str, socket.socket] = {}

        def knock() -> str:
            """Make one more connection; return its id."""
            sock = stack.enter_context(scene.knock())
            found: list[str] = []

            def look() -> bool:
                port = sock.getsockname()[1]
                found.extend(each["id"] for each in follower.events if each.get("peer_port") == port)
                return bool(found)

            wait_until(look, "it is told that it is held")
            clients[found[0]] = sock
            return found[0]

        while len({acceptor_of(knock()), *map(acceptor_of, clients)}) < 2:
            assert len(clients) < 100
        count = len(clients)
        lost = {id for id in clients if acceptor_of(id) == "acceptor-0"}
        scene.symphony.kill_child("acceptor-0")
        follower.wait(lambda events: len(events) == count + len(lost), "it is told who is gone")
        told = follower.events[count:]
        assert {(event["event"], event["id"], event["how"]) for event in told} == {
            ("released", id, "gone") for id in lost
        }
        for id in lost:
            assert ended_by_reset(clients[id])
        assert scene.symphony.command("resolve", lost.pop(), "--reject").returncode == 1
        scene.wait_held(count - len(told))
        # The successor's are heard in the same stream.
        while acceptor_of(knock()) != "acceptor-0":
            assert len(clients) < 200


def test_held_over_a_reload(scene: Scene) -> None:
    """The route is taken away meanwhile: the connection keeps its certificate, and goes where it is sent."""
    call = scene.call()
    (row,) = scene.wait_held()
    without = scene.config.replace("held.example.test", "other.example.test")
    scene.symphony.config_file.write_text(without)
    try:
        assert scene.symphony.command("reload").returncode == 0
        done = scene.symphony.command("resolve", row["id"], "--to", f"tcp://127.0.0.1:{scene.plain}")
        assert done.stdout == "forwarded\n"
        assert call.result() == "plain"
    finally:
        scene.symphony.config_file.write_text(scene.config)
        assert scene.symphony.command("reload").returncode == 0


def test_a_stop_does_not_wait_for_what_is_held() -> None:
    with scene_of() as scene, Follower(scene.symphony, "suspended", "--follow", "--json") as follower:
        with scene.knock() as sock:
            follower.wait(lambda events: len(events) == 1, "it is held")
            began = time.monotonic()
            assert scene.symphony.command("stop").returncode == 0
            assert time.monotonic() - began < 15  # of the twenty that draining may take
            assert ended_by_reset(sock)
        follower.wait(lambda events: events[-1].get("how") == "aborted", "its end is told")
        assert follower.end() == (3, f"process {scene.symphony.pid} has ended\n")


# Many


def test_thousands_are_held_listed_and_resolved(scene: Scene) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MANY + 500:
        pytest.skip(f"needs {MANY + 500} descriptors, has {soft}")
    with ExitStack() as stack:
        hello = SteppedClient(HELD).hello()
        socks = []
        for number in range(MANY):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(30)
            sock.bind((f"127.0.0.{1 + number % 8}", 0))
            sock.connect(("127.0.0.1", scene.symphony.port()))
            sock.sendall(hello)
            socks.append(sock)
        rows = scene.wait_held(MANY)
        assert len({row["id"] for row in rows}) == MANY
        by_peer = {(row["peer_ip"], row["peer_port"]): row["id"] for row in rows}
        assert set(by_peer) == {sock.getsockname() for sock in socks}
        # A quarter leaves, a quarter is rejected, the rest is forwarded to where nobody listens.
        for sock in socks[: MANY // 4]:
            sock.close()
        left = scene.wait_held(MANY - MANY // 4)
        ids = [by_peer[sock.getsockname()] for sock in socks[MANY // 4 :]]
        assert {row["id"] for row in left} == set(ids)
        dead = HeldRoute((TcpUpstream(host="127.0.0.1", port=lasting_port()),), False)
        routes = [None] * (MANY // 4) + [dead] * (MANY // 2)

        async def decide() -> list[str]:
            gate = asyncio.Semaphore(20)

            async def decide_one(id: str, route: HeldRoute | None) -> str:
                async with gate:
                    return await resolve_held(scene.runtime_dir, id, route)

            return await asyncio.gather(*map(decide_one, ids, routes))

        hows = asyncio.run(decide())
        assert hows == ["rejected"] * (MANY // 4) + ["forwarded"] * (MANY // 2)
        for sock in socks[MANY // 4 :]:
            assert ended_by_reset(sock)
    assert scene.held() == []


async def test_a_program_that_decides_about_everybody(scene: Scene) -> None:
    """What the command line shows, from Python: every connection is answered as soon as it is held."""
    outcome: dict[str, str] = {}
    async with EventFeed(scene.runtime_dir) as feed:

        async def decide() -> None:
            async for event in feed.subscribe():
                if isinstance(event, Suspended):
                    route = HeldRoute((TcpUpstream(host="127.0.0.1", port=scene.plain),))
                    await resolve_held(scene.runtime_dir, event.id, route)
                elif isinstance(event, Released):
                    outcome[event.id] = event.how

        deciding = asyncio.create_task(decide())
        calls = [scene.call() for _ in range(20)]
        answers = [await asyncio.to_thread(call.result) for call in calls]
        await eventually(lambda: len(outcome) == 20, "all are told of")
        deciding.cancel()
    assert answers == ["plain"] * 20
    assert set(outcome.values()) == {"forwarded"}
