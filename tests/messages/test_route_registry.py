"""The route registry's process: snapshots, versions, reloads, and lives after the first."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from actors.route_registry import RegistrySettings, run_route_registry
from symphony.config.problem import Severity
from symphony.config.snapshot import Snapshot
from symphony.config.topology import Topology
from symphony.mailbox.client import MailboxClient, MailboxError
from symphony.messages.registry import (
    AppliedBy,
    AwaitApplied,
    ConfigDescription,
    DescribeConfig,
    KeepListeners,
    ListenersKept,
    RegistryReply,
    Reload,
    ReloadDone,
    RoutesPublished,
    SnapshotApplied,
    Subscribed,
    SubscribeRoutes,
    SubscribeTargets,
    SubscribeTopology,
    TargetsPublished,
    TopologyPublished,
)
from symphony.routing.snapshot_store import SnapshotStore
from symphony.tls.certificate_maker import make_certificate
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage
from tests.support.loops import wait_connected

NAME = "route-registry"


class Site:
    """A stage with a configuration file, and the registry that serves it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.file = stage.file("symphony.toml")
        made = make_certificate(["a.example"])
        for name, content in (("chain.pem", made.chain_pem), ("key.pem", made.key_pem)):
            with open(stage.file(name), "wb") as file:
                file.write(content)
            os.chmod(stage.file(name), 0o600)
        self.key = made.key_pem

    def write(self, *routes: str, head: str = "", listeners: Sequence[int] = (8443,)) -> None:
        ports = "".join(f'[[listeners]]\nhost = "127.0.0.1"\nport = {port}\n' for port in listeners)
        self.write_text(f"{head}\n{ports}\n" + "\n".join(f"[[routes]]\n{route}\n" for route in routes))

    def write_text(self, text: str) -> None:
        with open(self.file, "w") as file:
            file.write(text)

    def start(self, *, incarnation: int = 1, ready: bool = True) -> ActorProcess:
        settings = RegistrySettings(self.stage.runtime_dir, self.file, {"watch": False})
        return self.stage.start(NAME, run_route_registry, settings, incarnation=incarnation, ready=ready)


def passthrough(sni: str, port: int) -> str:
    return f'sni = "{sni}"\nterminate_tls = false\nupstreams = [{{kind = "tcp", host = "127.0.0.1", port = {port}}}]'


def terminated(sni: str, key: str = "key.pem") -> str:
    upstream = '{kind = "uds", path = "/run/app.sock", pid = 4, tid = 5}'
    cert = f'{{cert_chain_file = "chain.pem", private_key_file = "{key}"}}'
    return f'sni = "{sni}"\ncert = {cert}\nupstreams = [{upstream}]'


class Subscriber:
    """One connection to the registry, with what was pushed on it."""

    def __init__(self, stage: Stage) -> None:
        self.client = MailboxClient(stage.mailbox(NAME), RegistryReply)
        self.client.on_push = self._take
        self._pushed: asyncio.Queue[Any] = asyncio.Queue()

    def _take(self, message: Any) -> None:
        self._pushed.put_nowait(message)

    async def subscribe(self, name: str, version: int) -> int:
        reply = await self.client.call(SubscribeRoutes(name, version))
        assert isinstance(reply, Subscribed)
        return reply.version

    async def snapshot(self) -> Snapshot:
        message = await asyncio.wait_for(self._pushed.get(), LIMIT_S)
        assert isinstance(message, RoutesPublished)
        return message.snapshot

    async def targets(self) -> tuple[tuple[int, int], ...]:
        message = await asyncio.wait_for(self._pushed.get(), LIMIT_S)
        assert isinstance(message, TargetsPublished)
        return message.targets

    async def topology(self) -> Topology:
        message = await asyncio.wait_for(self._pushed.get(), LIMIT_S)
        assert isinstance(message, TopologyPublished)
        return message.topology

    async def reload(self) -> ReloadDone:
        reply = await self.client.call(Reload(), LIMIT_S)
        assert isinstance(reply, ReloadDone)
        return reply

    async def describe(self) -> ConfigDescription:
        reply = await self.client.call(DescribeConfig())
        assert isinstance(reply, ConfigDescription)
        return reply

    async def wait_answer(self) -> None:
        """Wait until a registry that was started again answers."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                await self.describe()
            except MailboxError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
            else:
                return

    async def nothing_was_pushed(self) -> bool:
        """The registry answers in order, so a push before this answer would be here."""
        await self.describe()
        return self._pushed.empty()

    async def wait_applied(self, expected: dict[str, int]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (applied := (await self.describe()).applied) != expected:
            assert time.monotonic() < deadline, applied
            await asyncio.sleep(0.005)


@asynccontextmanager
async def subscriber(site: Site) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(site.stage)
    subscriber.client.start()
    try:
        assert await wait_connected(subscriber.client, LIMIT_S)
        yield subscriber
    finally:
        await subscriber.client.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with Stage() as stage:
        yield Site(stage)


def overwrite(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def names(snapshot: Snapshot) -> list[str]:
    return [route.sni for route in snapshot.routes]


def ports(snapshot: Snapshot) -> dict[str, int]:
    return {route.sni: getattr(route.upstreams[0], "port", 0) for route in snapshot.routes}


async def test_snapshot_is_pushed_after_subscribing(site: Site) -> None:
    site.write(terminated("a.example"), passthrough("", 9))
    site.start()
    async with subscriber(site) as one:
        assert await one.subscribe("acceptor-0", 0) == 1
        snapshot = await one.snapshot()
        assert names(snapshot) == ["a.example", ""]
        assert snapshot.version == 1
        assert [listener.id for listener in snapshot.listeners] == ["127.0.0.1:8443"]
        [identity] = snapshot.identities.values()
        assert identity.key_pem.strip() == site.key.strip()
        described = await one.describe()
        assert (described.version, described.routes, described.file) == (1, 2, site.file)
        assert described.listeners == snapshot.listeners
        assert described.applied == {}
        one.client.cast(SnapshotApplied("acceptor-0", 1))
        await one.wait_applied({"acceptor-0": 1})


async def test_a_subscriber_that_has_the_version_gets_nothing(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one:
        assert await one.subscribe("acceptor-0", 1) == 1
        assert await one.nothing_was_pushed()
        await one.wait_applied({"acceptor-0": 1})


async def test_reload_reaches_every_subscriber_and_changes_the_version_once(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one, subscriber(site) as two:
        for number, each in enumerate((one, two)):
            await each.subscribe(f"acceptor-{number}", 0)
            assert (await each.snapshot()).version == 1
        done = await one.reload()
        assert (done.version, done.changed, done.kept) == (1, False, ())
        assert await two.nothing_was_pushed()
        site.write(passthrough("a.example", 2), passthrough("b.example", 3))
        done = await one.reload()
        assert (done.version, done.changed) == (2, True)
        for each in (one, two):
            snapshot = await each.snapshot()
            assert snapshot.version == 2
            assert ports(snapshot) == {"a.example": 2, "b.example": 3}


async def test_who_waits_is_told_when_all_serve_a_version(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one, subscriber(site) as two, subscriber(site) as asking:
        for number, each in enumerate((one, two)):
            await each.subscribe(f"acceptor-{number}", 0)
            each.client.cast(SnapshotApplied(f"acceptor-{number}", 1))
        names = ("acceptor-0", "acceptor-1")
        assert await asking.client.call(AwaitApplied(1, names, LIMIT_S)) == AppliedBy(())
        site.write(passthrough("a.example", 2))
        assert (await asking.reload()).version == 2
        waiting = asyncio.ensure_future(asking.client.call(AwaitApplied(2, names, LIMIT_S), LIMIT_S))
        one.client.cast(SnapshotApplied("acceptor-0", 2))
        await asking.wait_applied({"acceptor-0": 2, "acceptor-1": 1})
        assert not waiting.done()
        # Of a name that is another's, nothing is believed.
        one.client.cast(SnapshotApplied("acceptor-1", 2))
        assert await asking.client.call(AwaitApplied(2, names, 0.05)) == AppliedBy(("acceptor-1",))
        assert not waiting.done()
        # The one that was waited for dies; the next of that name serves a later version.
        await two.client.close()
        await asking.wait_applied({"acceptor-0": 2})
        async with subscriber(site) as heir:
            await heir.subscribe("acceptor-1", 0)
            assert not waiting.done()
            heir.client.cast(SnapshotApplied("acceptor-1", 3))
            assert await waiting == AppliedBy(())


@pytest.mark.parametrize("within_s", [0.0, -1.0, 0.05])
async def test_who_waits_in_vain_is_told_who_is_behind(site: Site, within_s: float) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        one.client.cast(SnapshotApplied("acceptor-0", 1))
        await one.wait_applied({"acceptor-0": 1})
        names = ("acceptor-1", "acceptor-0", "gone")
        assert await one.client.call(AwaitApplied(1, names, within_s)) == AppliedBy(("acceptor-1", "gone"))
        assert await one.client.call(AwaitApplied(1, ("acceptor-0",), within_s)) == AppliedBy(())
        assert await one.client.call(AwaitApplied(9, (), within_s)) == AppliedBy(())


async def test_a_file_that_cannot_be_used_changes_nothing(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        await one.snapshot()
        for text in ("[[routes", 'listeners = "none"', "workres = 2\n[[listeners]]\nport = 1\n"):
            site.write_text(text)
            done = await one.reload()
            assert (done.version, done.changed) == (1, False)
            assert any(problem.severity is Severity.ERROR for problem in done.problems)
            assert (await one.describe()).problems == done.problems
        assert await one.nothing_was_pushed()


async def test_one_broken_route_keeps_its_last_version_and_the_rest_is_applied(site: Site) -> None:
    site.write(terminated("a.example"), passthrough("b.example", 1))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        before = await one.snapshot()
        site.write(
            terminated("a.example", key="missing.pem"), passthrough("b.example", 2), terminated("c", "no.pem")
        )
        done = await one.reload()
        assert (done.version, done.changed, done.kept) == (2, True, ("a.example",))
        assert {problem.place.split(".")[0] for problem in done.problems} == {"routes[0]", "routes[2]"}
        after = await one.snapshot()
        assert ports(after) == {"a.example": 0, "b.example": 2}
        assert after.identities == before.identities
        assert after.routes[0] == before.routes[0]


async def test_targets(site: Site) -> None:
    site.write(terminated("a.example"), terminated("b.example"), passthrough("c.example", 1))
    site.start()
    async with subscriber(site) as one:
        assert isinstance(await one.client.call(SubscribeTargets("cpu-sampler")), Subscribed)
        assert await one.targets() == ((4, 5),)
        site.write(terminated("a.example"), passthrough("c.example", 2))
        assert (await one.reload()).changed
        assert await one.nothing_was_pushed()  # the same targets are not told again
        site.write(passthrough("c.example", 2))
        assert (await one.reload()).changed
        assert await one.targets() == ()


async def test_applied_forgets_acceptors_that_are_gone(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 1)
        async with subscriber(site) as two:
            await two.subscribe("acceptor-1", 1)
            await one.wait_applied({"acceptor-0": 1, "acceptor-1": 1})
        await one.wait_applied({"acceptor-0": 1})


@pytest.mark.parametrize("edited", ["unchanged", "changed", "broken", "gone"])
async def test_killed_and_started_again(site: Site, edited: str) -> None:
    site.write(passthrough("a.example", 1))
    process = site.start()
    async with subscriber(site) as one:
        site.write(passthrough("a.example", 2))
        assert (await one.reload()).version == 2
        process.kill()
        if edited == "changed":
            site.write(passthrough("a.example", 3))
        elif edited == "broken":
            site.write_text("[[routes")
        elif edited == "gone":
            os.unlink(site.file)
        site.start(incarnation=2)
        await one.wait_answer()
        version = await one.subscribe("acceptor-0", 0)
        snapshot = await one.snapshot()
        assert snapshot.version == version == (3 if edited == "changed" else 2)
        assert ports(snapshot) == {"a.example": 3 if edited == "changed" else 2}
        errors = [
            problem for problem in (await one.describe()).problems if problem.severity is Severity.ERROR
        ]
        assert bool(errors) == (edited in ("broken", "gone"))


async def test_a_new_tree_continues_the_versions(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    site.start().kill()
    for port, version in ((2, 2), (2, 2), (3, 3), (3, 3)):
        site.write(passthrough("a.example", port))
        process = site.start()
        async with subscriber(site) as one:
            assert await one.subscribe("acceptor-0", 0) == version
            assert ports(await one.snapshot()) == {"a.example": port}
        process.kill()


@pytest.mark.parametrize("what", ["damaged", "open to others", "a link"])
async def test_a_stored_snapshot_that_cannot_be_trusted_is_not_used(site: Site, what: str) -> None:
    site.write(passthrough("a.example", 1))
    site.start().kill()
    path = SnapshotStore(site.stage.runtime_dir).path
    if what == "damaged":
        overwrite(path, b"\xff" * 20)
    elif what == "open to others":
        os.chmod(path, 0o644)
    else:
        os.rename(path, site.stage.file("elsewhere"))
        os.symlink(site.stage.file("elsewhere"), path)
    process = site.start(incarnation=2)
    assert "stored snapshot not used" in process.log()
    async with subscriber(site) as one:
        assert await one.subscribe("acceptor-0", 0) == 1
        assert names(await one.snapshot()) == ["a.example"]


async def test_publishing_goes_on_when_nothing_can_be_stored(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    os.mkdir(SnapshotStore(site.stage.runtime_dir).path)
    process = site.start()
    assert "snapshot not stored" in process.log()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        assert (await one.snapshot()).version == 1
        site.write(passthrough("a.example", 2))
        assert (await one.reload()).version == 2
        assert (await one.snapshot()).version == 2
        # The next life knows nothing of version 2; the acceptor that serves it does.
        process.kill()
        site.start(incarnation=2)
        await one.wait_answer()
        assert await one.subscribe("acceptor-0", 2) == 3
        snapshot = await one.snapshot()
        assert (snapshot.version, ports(snapshot)) == (3, {"a.example": 2})


async def test_stopped_registry_answers_what_waited(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    process = site.start()
    async with subscriber(site) as one:
        process.signal(signal.SIGSTOP)
        asked = asyncio.ensure_future(one.subscribe("acceptor-0", 0))
        await asyncio.sleep(0.05)
        assert not asked.done()
        process.signal(signal.SIGCONT)
        assert await asyncio.wait_for(asked, LIMIT_S) == 1
        assert (await one.snapshot()).version == 1


def test_a_first_life_refuses_a_broken_file(site: Site) -> None:
    site.write(passthrough("a.example", 1), terminated("b.example", "missing.pem"))
    process = site.start(ready=False)
    assert "routes[1].cert.private_key_file" in process.wait_failed()
    assert process.wait_exit() == 1


async def test_many_routes_fit(site: Site) -> None:
    site.write(*(terminated(f"r{number}.example") for number in range(2000)))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        snapshot = await one.snapshot()
        assert len(snapshot.routes) == 2000
        assert len(snapshot.identities) == 1
        assert len(msgspec.msgpack.encode(snapshot)) < 1 << 20


def test_stored_snapshot_is_private(site: Site) -> None:
    site.write(terminated("a.example"))
    site.start()
    store = SnapshotStore(site.stage.runtime_dir)
    assert os.stat(store.path).st_mode & 0o777 == 0o600
    stored = store.load()
    assert stored is not None and stored.source == site.file and names(stored.snapshot) == ["a.example"]
    assert sorted(os.listdir(site.stage.runtime_dir)) == ["route-registry.sock", "snapshot.bin"]


async def test_the_topology_is_told_whenever_the_file_is_read(site: Site) -> None:
    site.write(passthrough("a.example", 1))
    process = site.start()
    async with subscriber(site) as one, subscriber(site) as two:
        assert isinstance(await one.client.call(SubscribeTopology()), Subscribed)
        first = await one.topology()
        assert [listener.port for listener in first.listeners] == [8443]
        site.write(passthrough("a.example", 2), listeners=(8443, 8444), head="workers = 7")
        done = await two.reload()
        assert done.topology is not None
        assert (done.topology.workers, len(done.topology.listeners)) == (7, 2)
        assert await one.topology() == done.topology
        site.write_text("[[routes")
        assert (await two.reload()).topology is None
        assert await one.nothing_was_pushed()
        process.kill()
        site.start(incarnation=2)
        await one.wait_answer()
        assert isinstance(await one.client.call(SubscribeTopology()), Subscribed)
        assert await one.nothing_was_pushed(), "a file that cannot be used says nothing of processes"


async def test_listeners_that_nobody_serves_are_forgotten(site: Site) -> None:
    site.write(terminated("a.example"), listeners=(8443, 8444))
    site.start()
    async with subscriber(site) as one:
        await one.subscribe("acceptor-0", 0)
        await one.snapshot()
        site.write(terminated("a.example"), listeners=(8444, 8445))
        assert (await one.reload()).changed
        assert [each.port for each in (await one.snapshot()).listeners] == [8443, 8444, 8445]
        # What the file has stays, whether somebody serves it yet or not.
        kept = await one.client.call(KeepListeners(("127.0.0.1:8443", "127.0.0.1:8444")))
        assert kept == ListenersKept(2)
        assert await one.nothing_was_pushed()
        assert await one.client.call(KeepListeners(("127.0.0.1:8444",))) == ListenersKept(3)
        after = await one.snapshot()
        assert [each.port for each in after.listeners] == [8444, 8445]
        assert len(after.routes[0].policies) == 2
