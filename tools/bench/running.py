"""Start a proxy for a service and make sure that it answers, correctly, and that it is the one that answers."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tools.bench import ports
from tools.bench.peers import Peer, Service
from tools.bench.process import Program, StartFailed

_ATTEMPTS = 3


class Running:
    """A started proxy: `.port`, `.program`, `.pids()`, and how long it took to be ready."""

    def __init__(self, peer: Peer, service: Service, cores: set[int] | None) -> None:
        """Start it. StartFailed when it does not answer rightly in time; PortTaken when someone else has the port."""
        self.peer = peer
        self.service = service
        self.port = service.port
        if ports.listening_inodes(service.port):
            raise ports.PortTaken(f"port {service.port} is in use")
        config = service.directory / peer.config_name()
        config.touch(mode=0o600)
        config.write_text(peer.config(service))
        started = time.monotonic()
        self.program = Program(
            peer.name, peer.command(config, service), service.directory / "output.log", cores
        )
        try:
            self._wait(started + peer.start_deadline_s)
            self.ready_s = time.monotonic() - started
        except BaseException:
            self.program.stop()
            raise

    def _wait(self, deadline: float) -> None:
        last = "its port stays closed"
        while time.monotonic() < deadline:
            if self.program.exit_code is not None:
                raise StartFailed(
                    f"{self.peer.name} ended with code {self.program.exit_code}: {self.program.tail()}"
                )
            if ports.listening_inodes(self.port) and ports.owned_by(self.port, self.pids()):
                try:
                    self.peer.probe(self.port)
                    return
                except OSError as error:
                    last = f"{type(error).__name__}: {error}"
            time.sleep(0.005)
        raise StartFailed(f"{self.peer.name} is not ready: {last}; {self.program.tail()}")

    def pids(self) -> list[int]:
        """All its processes."""
        return self.program.pids()

    def stop(self) -> None:
        """Stop it and what it started."""
        self.program.stop()


@contextlib.contextmanager
def running(peer: Peer, service: Service, cores: set[int] | None) -> Iterator[Running]:
    """Run a proxy in a fresh directory of its own and on another port when `service.port` is taken; stop it after."""
    with tempfile.TemporaryDirectory(prefix=f"{peer.name}-", dir=service.directory) as name:
        here = replace(service, directory=Path(name))
        for attempt in range(_ATTEMPTS):
            try:
                proxy = Running(peer, here, cores)
                break
            except ports.PortTaken:
                if attempt == _ATTEMPTS - 1:
                    raise
                here = replace(here, port=ports.free_port())
        try:
            yield proxy
        finally:
            proxy.stop()
