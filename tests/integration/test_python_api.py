"""The Python interface against trees of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import symphony
from symphony import (
    ActorChanged,
    Certificate,
    Config,
    ConfigError,
    Listener,
    NotOurs,
    NotRunning,
    Protection,
    ResolveRoute,
    Route,
    Suspended,
    SymphonyProxy,
    UdsUpstream,
    UnknownConnection,
)
from symphony.mailbox.client import MailboxRefused
from symphony.tls.certificate_maker import MadeCertificate, make_certificate
from tests.support.ports import lasting_port
from tests.support.services import Service
from tests.support.symphony_process import running_symphony
from tests.support.tls_client import Answer, SteppedClient, connect, get

LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> MadeCertificate:
    return make_certificate(["localhost"])


def context() -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


async def call(port: int, name: str = "localhost") -> Answer:
    return await asyncio.to_thread(get, port, name, context())


def config(made: MadeCertificate, service: Service, **route: Any) -> Config:
    certificate = Certificate(cert_chain=made.chain_pem.decode(), private_key=made.key_pem.decode())
    return Config(
        workers=2,
        listeners=(Listener(host="127.0.0.1", port=0, default_cert=certificate),),
        routes=(Route(sni="", upstreams=(UdsUpstream(path=service.path),), **route),),
    )


async def port_of(proxy: SymphonyProxy) -> int:
    return int((await proxy.status()).listeners[0].address.rpartition(":")[2])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - there is nothing to wait for but the world
            await asyncio.sleep(0.02)


async def test_a_tree_from_start_to_end(made: MadeCertificate) -> None:
    told: list[str] = []
    with Service("one") as service, Service("two") as other:
        proxy = SymphonyProxy(config(made, service))
        proxy.on("ready", lambda _: told.append("ready"))
        proxy.on("close", lambda _: told.append("close"))
        with pytest.raises(NotRunning):
            await proxy.metrics()
        async with proxy:
            directory = Path(proxy.runtime_dir).parent
            assert directory.stat().st_mode & 0o777 == 0o700
            assert (directory / "config.json").stat().st_mode & 0o777 == 0o600
            port = await port_of(proxy)
            assert (await call(port)).body == b"one"
            version = await proxy.update_config(
                routes=[Route(sni="", upstreams=(UdsUpstream(path=other.path),))]
            )
            assert set((await proxy.metrics()).applied.values()) == {version}
            assert (await call(port)).body == b"two"
            metrics = await proxy.metrics()
            assert metrics.totals.accepted == 2 and metrics.version == symphony.__version__
            with pytest.raises(ConfigError, match="upstreams"):
                await proxy.update_config(routes=[{"sni": "", "upstreams": []}])
            with pytest.raises(ConfigError, match="nonsense"):
                await proxy.update_config(nonsense=1)
            assert (await call(port)).body == b"two"
            assert (await proxy.status()).config_version == version
        assert not directory.exists()
        assert told == ["ready", "close"]


async def test_a_listener_and_then_everything_drains(made: MadeCertificate) -> None:
    with Service("one") as service:
        proxy = SymphonyProxy(config(made, service))
        with pytest.raises(NotRunning):
            await proxy.drain()
        async with proxy:
            port = await port_of(proxy)
            name = f"127.0.0.1:{port}"
            assert (await call(port)).body == b"one"
            with pytest.raises(MailboxRefused, match="there is no listener 'x:1'"):
                await proxy.drain(listener="x:1")
            assert await proxy.drain(listener=name) == 0
            with pytest.raises(ConnectionRefusedError):
                await call(port)
            attached = SymphonyProxy.attach(proxy.runtime_dir)
            await attached.resume(name)
            with pytest.raises(MailboxRefused, match="does not drain"):
                await proxy.resume(name)
            assert (await call(port)).body == b"one"
            left: list[int] = []
            with connect(port) as held:
                SteppedClient("localhost").finish(held)
                assert await proxy.drain(0.2, listener=name, on_change=left.append) == 1
                assert left[0] == 1
                await proxy.resume(name)
                with connect(port) as other:
                    SteppedClient("localhost").finish(other)
                    assert await attached.drain(0.2) == 1
            await asyncio.wait_for(proxy.wait_closed(), LIMIT_S)


async def test_protection_is_replaced_for_one_listener_or_all(made: MadeCertificate) -> None:
    with Service("one") as service:
        async with SymphonyProxy(config(made, service)) as proxy:
            port = await port_of(proxy)
            version = await proxy.update_config(
                protection=Protection(require_sni=True, blocklist=("127.0.0.1",))
            )
            assert set((await proxy.metrics()).applied.values()) == {version}
            with pytest.raises(OSError):
                await call(port)
            [lists] = (await proxy.blocked_ips()).lists
            assert lists.blocklist == ("127.0.0.1/32",)
            with pytest.raises(ConfigError, match="no listener has port 1"):
                await proxy.update_config(protection={1: Protection()})
            version = await proxy.update_config(protection={0: {}})
            assert set((await proxy.metrics()).applied.values()) == {version}
            assert (await call(port)).body == b"one"


async def test_held_connections_are_decided_by_handlers(made: MadeCertificate) -> None:
    with Service("one") as service, Service("two") as other:
        async with SymphonyProxy(config(made, service, suspended=True)) as proxy:
            seen: list[str] = []

            async def decide(connection: Suspended) -> None:
                seen.append(connection.sni)
                if connection.sni == "no.example":
                    await proxy.resolve_connection(connection.id, None)
                elif connection.sni == "other.example":
                    route = ResolveRoute(upstreams=(UdsUpstream(path=other.path),))
                    assert await proxy.resolve_connection(connection.id, route)
                else:
                    assert await proxy.resolve_connection(connection.id, {})
                assert not await proxy.resolve_connection(connection.id, None)

            def broken(_: Suspended) -> None:
                raise RuntimeError("a handler of the test's")

            proxy.on("suspended", broken)
            proxy.on("suspended", decide)
            port = await port_of(proxy)
            assert (await call(port, "yes.example")).body == b"one"
            assert (await call(port, "other.example")).body == b"two"
            with pytest.raises(OSError):
                await call(port, "no.example")
            assert seen == ["yes.example", "other.example", "no.example"]
            assert not await proxy.resolve_connection("0-nothing-1", None)
            with pytest.raises(UnknownConnection):
                await proxy.resolve_connection("0-nothing-1", None, must_exist=True)
            with pytest.raises(ConfigError, match="cert: has a certificate chain but no key"):
                await proxy.resolve_connection("0-nothing-1", {"cert_chain": "x"})


async def test_events_and_actors(made: MadeCertificate) -> None:
    with Service("one") as service:
        async with SymphonyProxy(config(made, service)) as proxy:
            changed: list[ActorChanged] = []
            take_back = proxy.on("actor", changed.append)

            def told() -> bool:
                return any(one.name == "acceptor-1" and one.restarts for one in changed)

            async with asyncio.timeout(LIMIT_S):
                while not told():  # the watch may not have known the tree before it died
                    victim = next(one for one in (await proxy.status()).actors if one.name == "acceptor-1")
                    if victim.pid is not None:
                        with suppress(ProcessLookupError):
                            os.kill(victim.pid, signal.SIGKILL)
                    await asyncio.sleep(1.0)
            take_back()
            with pytest.raises(ValueError, match="no kind of event"):
                proxy.on("nonsense", print)  # type: ignore[arg-type]


async def test_attaching(made: MadeCertificate, tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        SymphonyProxy.attach(tmp_path)
    text = """
workers = 1
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }
[[routes]]
sni = ""
upstreams = [{ kind = "tcp", host = "127.0.0.1", port = 1 }]
"""
    files = {"cert.pem": made.chain_pem, "key.pem": made.key_pem}
    with running_symphony(text, files=files) as running:
        async with SymphonyProxy.attach(running.runtime_dir) as proxy:
            assert (await proxy.metrics()).pid == running.pid
            with pytest.raises(NotOurs):
                await proxy.update_config(routes=[])
        assert running.status().pid == running.pid


async def test_a_configuration_that_cannot_be_used_starts_nothing() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ConfigError) as caught:
        async with SymphonyProxy({"listeners": [{"port": "x"}], "routes": [{"sni": 5}]}):
            raise AssertionError("it has started")
    assert {"listeners[0].port", "routes[0].sni"} <= {problem.place for problem in caught.value.problems}
    assert set(psutil.Process().children(recursive=True)) == before


async def test_cancelling_a_start_leaves_nothing(made: MadeCertificate) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Service("one") as service:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), SymphonyProxy(config(made, service)):
                await asyncio.sleep(LIMIT_S)
        await until(lambda: set(psutil.Process().children(recursive=True)) <= before | _services())


def _services() -> set[psutil.Process]:
    """What is not the tree's: the service of the test that still runs."""
    return {child for child in psutil.Process().children() if not child.children()}


def test_a_program_that_is_killed_takes_its_tree_along(made: MadeCertificate, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_bytes(made.chain_pem)
    (tmp_path / "key.pem").write_bytes(made.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    port = str(lasting_port())
    gate = ROOT / "tools" / "examples" / "gate.py"
    with subprocess.Popen(
        [sys.executable, gate, "tcp://127.0.0.1:1", port, "cert.pem", "key.pem"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as program:
        try:
            assert program.stdout is not None
            deadline = time.monotonic() + LIMIT_S
            while True:
                with suppress(OSError):  # nobody is behind it
                    assert get(int(port), "a.example", context()).body == b""
                os.set_blocking(program.stdout.fileno(), False)
                if b"welcome" in (program.stdout.read() or b""):
                    break
                assert time.monotonic() < deadline and program.poll() is None
                time.sleep(0.1)
            family = psutil.Process(program.pid).children(recursive=True)
            assert len(family) > 4
        finally:
            program.kill()
    gone, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert not alive and len(gone) == len(family)


def test_what_is_named_is_there() -> None:
    for name in symphony.__all__:
        assert getattr(symphony, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        symphony.nothing  # noqa: B018
    assert (
        len((ROOT / "tools" / "examples" / "gate.py").read_text().split('"""')[2].strip().splitlines()) < 30
    )
