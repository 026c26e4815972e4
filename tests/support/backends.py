"""Upstreams that say their name to whoever connects and then hold the connection, and clients that ask for it.

All of them are served by one thread, so a test can have dozens of each. A backend can stop listening and come back on
the same address; what it has accepted stays open.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from tests.support.tls_client import SteppedClient

LIMIT_S = 20.0
_NAME_LENGTH = 8


class Backend:
    """One upstream. `accepted` is how many connections it ever took, `open` how many of them are open."""

    def __init__(self, kind: str, name: str, directory: str) -> None:
        assert len(name) <= _NAME_LENGTH, name
        self.kind = kind
        self.name = name
        self.accepted = 0
        self.connections: set[socket.socket] = set()
        self.address: str | tuple[str, int] = (
            os.path.join(directory, name) if kind == "uds" else ("127.0.0.1", 0)
        )
        self.listening: socket.socket | None = None

    @property
    def open(self) -> int:
        return len(self.connections)

    @property
    def label(self) -> str:
        """What Symphony calls it."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        return f"tcp://{self.address[0]}:{self.address[1]}"

    def entry(self, **keys: object) -> str:
        """The upstream as a configuration file names it, with some more `keys`."""
        if isinstance(self.address, str):
            words = ['kind = "uds"', f'path = "{self.address}"']
        else:
            words = ['kind = "tcp"', f'host = "{self.address[0]}"', f"port = {self.address[1]}"]
        words += [f"{key} = {_toml(value)}" for key, value in keys.items()]
        return "{ " + ", ".join(words) + " }"

    def bind(self) -> socket.socket:
        """Listen at its address, the same one each time."""
        if isinstance(self.address, str):
            with suppress(FileNotFoundError):
                os.unlink(self.address)
            listening = socket.socket(socket.AF_UNIX)
        else:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(self.address)
        listening.listen(512)
        listening.setblocking(False)
        if not isinstance(self.address, str):
            self.address = listening.getsockname()
        self.listening = listening
        return listening


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return str(value)


class Backends(Sequence[Backend]):
    """Some backends, named b0, b1 and so on; usable as a context manager."""

    def __init__(self, count: int, kind: str = "uds") -> None:
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ending = False
        self._backends = [Backend(kind, f"b{number}", self._directory) for number in range(count)]
        for backend in self._backends:
            self.start(backend)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._backends)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._backends[index]

    @property
    def open(self) -> list[int]:
        """How many connections each holds."""
        return [backend.open for backend in self._backends]

    def entries(self, **keys: object) -> str:
        """All of them as the value of a route's `upstreams`."""
        return "[" + ", ".join(backend.entry(**keys) for backend in self._backends) + "]"

    def start(self, backend: Backend) -> None:
        """Listen, for the first time or again."""
        with self._lock:
            self._selector.register(backend.bind(), selectors.EVENT_READ, backend)

    def stop(self, backend: Backend) -> None:
        """Listen no more: whoever connects is refused."""
        with self._lock:
            listening, backend.listening = backend.listening, None
            assert listening is not None, "it does not listen"
            self._selector.unregister(listening)
            listening.close()

    def _serve(self) -> None:
        while not self._ending:
            ready = self._selector.select(0.05)
            with self._lock:
                for key, _ in ready:
                    if key.fd < 0 or key.fileobj not in self._selector.get_map():
                        continue
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is key.data.listening:
                        self._accept(sock, key.data)
                    else:
                        self._read(sock, key.data)

    def _accept(self, listening: socket.socket, backend: Backend) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = listening.accept()
                sock.setblocking(False)
                backend.accepted += 1
                backend.connections.add(sock)
                self._selector.register(sock, selectors.EVENT_READ, backend)
                with suppress(OSError):
                    sock.send(backend.name.ljust(_NAME_LENGTH).encode())

    def _read(self, sock: socket.socket, backend: Backend) -> None:
        try:
            if sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(sock)
        backend.connections.discard(sock)
        sock.close()

    def close(self) -> None:
        """End all of it."""
        self._ending = True
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        for backend in self._backends:
            for sock in backend.connections:
                sock.close()
            if backend.listening is not None:
                backend.listening.close()
        self._selector.close()
        shutil.rmtree(self._directory)

    def __enter__(self) -> Backends:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hold(port: int, name: str, source: str = "127.0.0.1") -> tuple[socket.socket, str]:
    """Connect from `source` to a route that passes through; return the connection and the backend that has it.

    The name is "" when the connection was closed or reset instead.
    """
    sock = socket.create_connection(("127.0.0.1", port), LIMIT_S, source_address=(source, 0))
    answer = b""
    try:
        sock.sendall(SteppedClient(name).hello())
        while len(answer) < _NAME_LENGTH:
            part = sock.recv(_NAME_LENGTH - len(answer))
            if not part:
                break
            answer += part
    except ConnectionError:
        pass
    return sock, answer.decode().strip()


def visit(port: int, name: str, source: str = "127.0.0.1") -> str:
    """The backend that a connection from `source` gets; it is closed again."""
    sock, backend = hold(port, name, source)
    sock.close()
    return backend
