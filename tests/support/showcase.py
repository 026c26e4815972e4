"""One configuration with every kind of route, real services behind all of them, and what a call to each must find.

An exact, a wildcard and a default route, one that demands client certificates, one passed through to a TLS server, and
one over Unix sockets with two upstreams. Every route has a certificate from an authority of its own.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.calls import Answer, Target
from tests.support.named_services import NamedServices
from tests.support.symphony_process import SymphonyProcess

_CONFIG = """\
workers = {workers}
drain_timeout_ms = {drain_ms}

[[listeners]]
host = "127.0.0.1"
port = {port}
default_cert = {{ cert_chain_file = "default.pem", private_key_file = "default.key" }}

[[routes]]
sni = "exact.example.test"
cert = {{ cert_chain_file = "exact.pem", private_key_file = "exact.key" }}
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {exact} }}]

[[routes]]
sni = "*.wild.example.test"
cert = {{ cert_chain_file = "wildcard.pem", private_key_file = "wildcard.key" }}
http2 = true
upstreams = [{{ kind = "tcp", host = "localhost", port = {wildcard} }}]

[[routes]]
sni = "mutual.example.test"
cert = {{ cert_chain_file = "mutual.pem", private_key_file = "mutual.key" }}
mtls = {{ client_ca_cert_file = "clients.pem" }}
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {mutual} }}]

[[routes]]
sni = "passed.example.test"
terminate_tls = false
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {passed} }}]

[[routes]]
sni = "pool.example.test"
cert = {{ cert_chain_file = "pool.pem", private_key_file = "pool.key" }}
upstreams = [{{ kind = "uds", path = "{pool_1}" }}, {{ kind = "uds", path = "{pool_2}" }}]

[[routes]]
sni = ""
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {default} }}]
"""

_CERTIFICATE_NAMES = {
    "exact": "exact.example.test",
    "wildcard": "*.wild.example.test",
    "mutual": "mutual.example.test",
    "passed": "passed.example.test",
    "pool": "pool.example.test",
    "default": "*.elsewhere.example.test",
}
_CALLED_BY = {
    **_CERTIFICATE_NAMES,
    "wildcard": "any.wild.example.test",
    "default": "some.elsewhere.example.test",
}
ROUTES = tuple(_CERTIFICATE_NAMES)


@dataclass(frozen=True)
class Expected:
    """How to call a route, and what must come of it."""

    route: str
    target: Target
    services: frozenset[str]
    certificate: bytes

    def holds(self, answer: Answer) -> bool:
        """Whether the right service answered with the right certificate, where the client shows the latter."""
        return answer.service in self.services and answer.certificate in (b"", self.certificate)


@dataclass(frozen=True)
class Showcase:
    """A running instance with its services."""

    symphony: SymphonyProcess
    services: NamedServices
    config: str
    expected: dict[str, Expected]
    addresses: dict[str, int | str]

    @property
    def without_certificate(self) -> Target:
        """The route that demands a client certificate, for a client that has none."""
        return replace(self.expected["mutual"].target, identity="")

    def upstream_of(self, route: str) -> str:
        """The upstreams of a route, as they stand in the configuration."""
        if route == "pool":
            return ", ".join(
                f'{{ kind = "uds", path = "{self.addresses[at]}" }}' for at in ("pool_1", "pool_2")
            )
        return f'{{ kind = "tcp", host = "127.0.0.1", port = {self.addresses[route]} }}'


@contextmanager
def running_showcase(
    workers: int = 2, port: int = 0, drain_ms: int = 20_000, **environment: str
) -> Iterator[Showcase]:
    """Start everything, with `environment` besides; all of it is gone when the block is left.

    `drain_ms` has to be more than a busy machine takes for all that is done beside a connection that drains.
    """
    with NamedServices() as services:
        made = {}
        files = {}
        for route, name in _CERTIFICATE_NAMES.items():
            authority = make_authority(f"{route} authority")
            made[route] = make_certificate([name], authority=authority)
            files[f"{route}-authority.pem"] = authority.cert_pem
            if route != "passed":
                files[f"{route}.pem"], files[f"{route}.key"] = made[route].chain_pem, made[route].key_pem
        clients = make_authority("clients' authority")
        client = make_certificate(["a-client"], authority=clients, client=True)
        files["clients.pem"] = clients.cert_pem
        files["client.pem"] = client.chain_pem + client.key_pem
        addresses: dict[str, int | str] = {
            "exact": services.tcp("exact"),
            "wildcard": services.tcp("wildcard"),
            "mutual": services.tcp("mutual"),
            "passed": services.tls("passed", made["passed"]),
            "pool_1": services.uds("pool-1"),
            "pool_2": services.uds("pool-2"),
            "default": services.tcp("default"),
        }
        config = _CONFIG.format(drain_ms=drain_ms, workers=workers, port=port, **addresses)
        symphony = SymphonyProcess(config, files=files, environment=environment)
        try:
            symphony.start()
            expected = {route: _expect(symphony, route, made[route]) for route in ROUTES}
            yield Showcase(symphony, services, config, expected, addresses)
        finally:
            symphony.clean_up()


def _expect(symphony: SymphonyProcess, route: str, made: MadeCertificate) -> Expected:
    target = Target(
        port=symphony.port(),
        name=_CALLED_BY[route],
        trust=str(symphony.directory / f"{route}-authority.pem"),
        identity=str(symphony.directory / "client.pem") if route == "mutual" else "",
    )
    services = {"pool-1", "pool-2"} if route == "pool" else {route}
    leaf = ssl.PEM_cert_to_DER_cert(made.chain_pem.decode())
    return Expected(route, target, frozenset(services), leaf)
