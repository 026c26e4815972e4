"""Show a frame of ``symphony top`` of a real instance under real load: ``python tools/frame.py``.

Four routes: one over two services and a dead one, one over a Unix socket, one that is passed through, one that is held.
Clients come and go; some addresses exceed their limits. The frame is what ``symphony top --once`` prints.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from symphony.tls.certificate_maker import make_certificate
from tests.support.named_services import NamedServices
from tests.support.ports import lasting_port
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import client_context

CLIENTS = 40
LIMIT_S = 5.0
CHANCE = random.SystemRandom()
NAMES = {"shop.example.com": 6, "api.example.com": 3, "mail.example.com": 1}
GREEDY = ("127.0.0.7", "127.0.0.9", "127.0.0.23")

_LISTENER = """
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "cert.pem", private_key_file = "key.pem" }
"""
_LIMITS = """
rate_limit = { connections_per_second = 2, burst = 5 }
penalty_box = { duration_ms = 600000 }
"""


def configuration(services: NamedServices, made_for_mail: int) -> str:
    """As text; the services answer lines."""

    def tcp(port: int) -> str:
        return f'{{ kind = "tcp", host = "127.0.0.1", port = {port} }}'

    shop = ", ".join(map(tcp, (services.tcp("shop-1"), services.tcp("shop-2"), lasting_port())))
    api = f'{{ kind = "uds", path = "{services.uds("api")}" }}'
    return f"""
workers = 2
{_LISTENER}
{_LISTENER}
[listeners.protection]
{_LIMITS}
[[routes]]
sni = "shop.example.com"
upstreams = [{shop}]
[[routes]]
sni = "api.example.com"
upstreams = [{api}]
[[routes]]
sni = "mail.example.com"
terminate_tls = false
upstreams = [{tcp(made_for_mail)}]
[[routes]]
sni = "admin.example.com"
suspended = true
suspend_timeout_ms = 8000
upstreams = [{api}]
"""


class Load:
    """Clients of all kinds, each in a thread of its own, until :meth:`end`."""

    def __init__(self, symphony: SymphonyProcess) -> None:
        self._ports = symphony.port(0), symphony.port(1)
        self._context = client_context()
        self._over = threading.Event()
        work: list[Callable[[], None]] = [self._talk] * CLIENTS + [self._exceed] + [self._be_held] * 2
        self._threads = [threading.Thread(target=self._again, args=(each,)) for each in work]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop all of them."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _again(self, once: Callable[[], None]) -> None:
        while not self._over.is_set():
            with suppress(OSError):  # the instance is there to refuse some of them
                once()

    def _open(self, name: str, port: int, source: str = "127.0.0.1") -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port), LIMIT_S, (source, 0))
        return self._context.wrap_socket(raw, server_hostname=name)

    def _talk(self) -> None:
        with self._open(CHANCE.choices(list(NAMES), list(NAMES.values()))[0], self._ports[0]) as tls:
            for _ in range(CHANCE.randint(1, 6)):
                tls.sendall(b"x" * CHANCE.randint(50, 4000) + b"\n")
                while not tls.recv(65536).endswith(b"\n"):
                    pass
                self._over.wait(CHANCE.random() * (0.4 + 0.3 * math.sin(time.monotonic() / 4)))

    def _exceed(self) -> None:
        self._over.wait(0.05)
        with self._open("shop.example.com", self._ports[1], CHANCE.choice(GREEDY)) as tls:
            tls.sendall(b"hello\n")
            tls.recv(65536)

    def _be_held(self) -> None:
        self._over.wait(CHANCE.random() * 4)
        self._open("admin.example.com", self._ports[0]).close()


def main() -> None:
    """Print the frame."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="how much of the past the bars show (%(default)s)"
    )
    parser.add_argument("--columns", type=int, default=100)
    arguments = parser.parse_args()
    made = make_certificate(["*.example.com"])
    files = {"cert.pem": made.chain_pem, "key.pem": made.key_pem}
    samples = max(2, int(2 * arguments.seconds))
    os.environ["COLUMNS"] = str(arguments.columns)
    os.environ.pop("LINES", None)  # all that there is
    with NamedServices() as services:
        config = configuration(services, services.tls("mail", made))
        with running_symphony(config, files=files) as symphony:
            load = Load(symphony)
            try:
                top = ("top", "--once", "--interval", "0.5", "--samples", str(samples))
                shown = symphony.command(*top, timeout_s=arguments.seconds * 2 + 30)
            finally:
                load.end()
    print(shown.stdout, end="")
    sys.exit(shown.returncode)


if __name__ == "__main__":
    main()
