"""A real instance in which there is something of everything that is counted."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from symphony.tls.certificate_maker import make_certificate
from tests.support.services import Service
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import client_context, get

MADE = make_certificate(["localhost", "*.example"])
DEAD = "unix:/nowhere/at-all.sock"
_CONFIG = """
workers = 2
{admin}
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
[[listeners]]
host = "127.0.0.1"
port = 0
protection = {{ blocklist = ["127.0.0.0/8"] }}
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
[[routes]]
sni = "localhost"
upstreams = [
    {{ kind = "uds", path = "{service}" }},
    {{ kind = "uds", path = "/nowhere/at-all.sock", max_fails = 1, fail_timeout_ms = 60000 }},
]
[[routes]]
sni = "dead.example"
upstreams = [{{ kind = "uds", path = "/nowhere/at-all.sock", max_fails = 1, fail_timeout_ms = 60000 }}]
[[routes]]
sni = "limited.example"
max_connections_per_second = 1
upstreams = [{{ kind = "uds", path = "{service}" }}]
[[routes]]
sni = "held.example"
suspended = true
"""


class Observed:
    """The instance, and a client."""

    def __init__(self, symphony: SymphonyProcess, upstream: str) -> None:
        self.symphony = symphony
        self.upstream = upstream
        """The one that answers."""
        self._context: ssl.SSLContext = client_context()

    def ask(self, name: str, listener: int = 0) -> bool:
        """Whether there was an answer."""
        with suppress(OSError):
            return bool(get(self.symphony.port(listener), name, self._context).body)
        return False

    def use_everything(self) -> None:
        """Connections of every kind: answered, refused, limited, and one whose upstream is dead."""
        assert self.ask("localhost")
        assert not self.ask("dead.example")
        assert not self.ask("localhost", listener=1)
        assert self.ask("limited.example")


@contextmanager
def observed_symphony(admin: str = "[admin]") -> Iterator[Observed]:
    """`admin` is the table of the configuration."""
    files = {"cert.pem": MADE.chain_pem, "key.pem": MADE.key_pem}
    with (
        Service("one") as service,
        running_symphony(_CONFIG.format(service=service.path, admin=admin), files=files) as running,
    ):
        yield Observed(running, service.upstream.label)
