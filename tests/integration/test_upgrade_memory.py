"""What an upgrade takes along: operators' words, clients' upstreams, and what is known of sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.support.acceptor import wait_until
from tests.support.backends import Backend, Backends, hold, visit
from tests.support.symphony_process import SymphonyProcess, run_symphony, running_symphony

CLIENTS = [f"127.0.7.{number + 1}" for number in range(16)]
LIMITS = """[listeners.protection]
rate_limit = { connections_per_second = 0.001, burst = 4 }
penalty_box = { duration_ms = 600000 }
"""


class Site:
    def __init__(self, stack: ExitStack, limits: str = "") -> None:
        self._limits = limits
        self.backends: Backends = stack.enter_context(Backends(4))
        self.symphony: SymphonyProcess = stack.enter_context(running_symphony(self.config(self.backends[:2])))
        self.port = self.symphony.port()

    def config(self, backends: Sequence[Backend]) -> str:
        rows = ", ".join(backend.entry(ip_affinity=True) for backend in backends)
        head = f'workers = 2\n[[listeners]]\nhost = "127.0.0.1"\nport = 0\n{self._limits}'
        return head + f'[[routes]]\nsni = "a.test"\nterminate_tls = false\nupstreams = [{rows}]\n'

    def upgrade(self, *backends: Backend) -> None:
        if backends:
            self.symphony.config_file.write_text(self.config(backends))
        before = self.symphony.serving_pid
        done = run_symphony("upgrade", "--runtime-dir", str(self.symphony.runtime_dir), cwd=Path("/"))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: _is_gone(before), "the one before is gone")

    def modes(self) -> dict[str, str]:
        return {up.upstream: up.mode for up in self.symphony.status().upstreams}

    def is_let_in(self, source: str) -> bool:
        try:
            return visit(self.port, "a.test", source) != ""
        except ConnectionResetError:  # before connect() has returned
            return False

    def boxed(self) -> dict[str, float]:
        report = json.loads(self.symphony.command("blocked", "--json").stdout)
        return {each["source"]: each["seconds"] for each in report["sources"]}


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_an_operator_said_of_upstreams_holds() -> None:
    with ExitStack() as stack:
        site = Site(stack)
        first, second, third, _ = site.backends[:4]
        assert site.symphony.command("upstream", "a.test", first.label, "drain").returncode == 0
        version = site.symphony.status().config_version
        site.upgrade()
        assert site.modes() == {first.label: "drain", second.label: "ready"}
        assert {visit(site.port, "a.test", client) for client in CLIENTS} == {"b1"}
        assert site.symphony.status().config_version == version, "it is the same configuration"
        # An upstream that is taken out is forgotten, and any other is not.
        assert site.symphony.command("upstream", "a.test", second.label, "down").returncode == 0
        site.upgrade(second, third)
        assert site.modes() == {second.label: "down", third.label: "ready"}
        site.upgrade(first, second, third)
        assert site.modes() == {first.label: "ready", second.label: "down", third.label: "ready"}
        assert site.symphony.command("upstream", "a.test", second.label, "ready").returncode == 0
        site.upgrade()
        assert set(site.modes().values()) == {"ready"}
        # Until Symphony itself is restarted.
        assert site.symphony.command("upstream", "a.test", second.label, "down").returncode == 0
        assert site.symphony.command("stop").returncode == 0
        site.symphony.wait()
        site.symphony.start()
        assert set(site.modes().values()) == {"ready"}


def test_clients_stay_with_their_upstreams() -> None:
    with ExitStack() as stack:
        site = Site(stack)
        owners = {client: visit(site.port, "a.test", client) for client in CLIENTS}
        assert set(owners.values()) == {"b0", "b1"}
        for backends in (site.backends[:2], site.backends[::-1]):  # the longer list, in another order
            site.upgrade(*backends)
            assert {client: visit(site.port, "a.test", client) for client in CLIENTS} == owners
        # The one before and the one after remember together.
        with hold(site.port, "a.test", "127.0.9.1")[0]:
            done = run_symphony("upgrade", "--runtime-dir", str(site.symphony.runtime_dir), cwd=Path("/"))
            assert done.returncode == 0, done.stderr
            assert {client: visit(site.port, "a.test", client) for client in CLIENTS} == owners


def test_who_is_in_the_box_stays_there() -> None:
    bad, half, good = "127.0.1.1", "127.0.1.2", "127.0.1.3"
    with ExitStack() as stack:
        site = Site(stack, LIMITS)
        assert [site.is_let_in(bad) for _ in range(5)] == [True] * 4 + [False]
        assert all(site.is_let_in(half) for _ in range(3))
        assert bad in site.boxed()
        for _ in range(2):
            site.upgrade()
            assert 500 < site.boxed()[bad] <= 600
            assert not site.is_let_in(bad)
            assert half not in site.boxed()
        # Of four tokens it has used three.
        assert site.is_let_in(half)
        assert not site.is_let_in(half)
        assert site.is_let_in(good)
        assert site.symphony.logged("memory_not_taken_over") == []


def test_memory_that_is_not_known_is_left_behind() -> None:
    """A new version with other tables goes on with empty ones."""
    with ExitStack() as stack:
        site = Site(stack, LIMITS)
        while site.is_let_in("127.0.1.1"):
            pass
        assert "127.0.1.1" in site.boxed()
        package = site.symphony.directory / "symphony"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(
            "import os, sys\n"
            "sys.path.remove(os.getcwd())\n"
            "for name in [name for name in sys.modules if name.startswith('symphony')]:\n"
            "    del sys.modules[name]\n"
            "import symphony.protection.source_store as store\n"
            "store._LAYOUT = 'another'\n"
            "from symphony.routing.affinity import AffinityTable\n"
            "AffinityTable.LAYOUT = 'another'\n"
            "from symphony.cli.main import main\nmain()\n"
        )
        site.upgrade()
        assert {line["what"] for line in site.symphony.logged("memory_not_taken_over")} == {
            "affinity",
            "sources",
        }
        (package / "__main__.py").unlink()
        (package / "__init__.py").unlink()
        package.rmdir()
        assert site.boxed() == {}
        assert visit(site.port, "a.test") in ("b0", "b1")
