"""Routes that only some listeners have: what each port serves, and what it does with names of another one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.acceptor import wait_until
from tests.support.calls import Target, ask, connect
from tests.support.named_services import NamedServices
from tests.support.peers import Background
from tests.support.ports import lasting_port
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import SteppedClient, client_context
from tests.support.tls_client import connect as connect_plain

ACCEPTORS = ("acceptor-0", "acceptor-1")
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"

HEAD = """\
workers = 2

[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "first.pem", private_key_file = "first.key" }

[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "second.pem", private_key_file = "second.key" }

[[listeners]]
host = "127.0.0.1"
port = 0
mode = "http"
"""
FIRST, SECOND, PLAIN = "127.0.0.1:0", "127.0.0.1:0#2", "127.0.0.1:0#3"

ROUTES = (
    ("same.example.test", [FIRST], "same-first"),
    ("same.example.test", [SECOND], "same-second"),
    ("only.example.test", [SECOND], "only-second"),
    ("moved.example.test", [FIRST], "moved"),
    ("*.wild.example.test", [], "wild"),
    ("exact.wild.example.test", [FIRST], "exact-first"),
    ("exact.narrow.example.test", [], "exact"),
    ("*.narrow.example.test", [FIRST], "narrow-first"),
    ("", [SECOND], "default-second"),
    ("renewed.example.test", [SECOND, PLAIN], "renewed"),
)


class Ports(NamedTuple):
    """An instance with two TLS listeners, each with a certificate of its own, and a plain one."""

    symphony: SymphonyProcess
    trust: str
    upstreams: dict[str, int]

    def target(self, listener: int, name: str) -> Target:
        return Target(self.symphony.port(listener), name, self.trust, "")

    def service(self, listener: int, name: str) -> str:
        """Who answers for `name` on a listener."""
        with connect(self.target(listener, name)) as connection:
            return ask(connection)

    def is_unknown(self, listener: int, name: str) -> bool:
        """Whether a name is answered as one that no route has: by the alert for that, and nothing else."""
        with connect_plain(self.symphony.port(listener)) as sock:
            sock.sendall(SteppedClient(name).hello())
            received = b""
            try:
                while part := sock.recv(4096):
                    received += part
            except ConnectionResetError:
                pass
        return received == UNRECOGNIZED_NAME

    def config(self, routes: tuple[tuple[str, list[str], str], ...] = ROUTES) -> str:
        return HEAD + "".join(
            f'\n[[routes]]\nsni = "{sni}"\nlisteners = {json.dumps(listeners)}\n'
            f'upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {self.upstreams[service]} }}]\n'
            for sni, listeners, service in routes
        )

    def failures(self) -> Counter[str]:
        """Connections that failed, by reason, over all acceptors."""
        return sum((Counter(self.symphony.acceptor(name).errors) for name in ACCEPTORS), Counter())

    def reload(self, config: str) -> None:
        self.symphony.config_file.write_text(config)
        done = self.symphony.command("reload")
        assert done.returncode == 0, done.stderr
        version = self.symphony.status().config_version
        wait_until(
            lambda: all(self.symphony.acceptor(name).version == version for name in ACCEPTORS),
            "every acceptor serves it",
        )


@contextmanager
def _running() -> Iterator[Ports]:
    names = ["*.example.test", "*.wild.example.test", "*.narrow.example.test"]
    with ExitStack() as stack:
        services = stack.enter_context(NamedServices())
        upstreams = {service: services.tcp(service) for _, _, service in ROUTES}
        authority = make_authority("listeners")
        files = {"authority.pem": authority.cert_pem}
        for which in ("first", "second"):
            made = make_certificate(names, authority=authority)
            files |= {f"{which}.pem": made.chain_pem, f"{which}.key": made.key_pem}
        symphony = stack.enter_context(
            running_symphony(Ports(None, "", upstreams).config(), files=files)  # type: ignore[arg-type]
        )
        yield Ports(symphony, str(symphony.directory / "authority.pem"), upstreams)


@pytest.fixture(scope="module")
def running() -> Iterator[Ports]:
    with _running() as ports:
        yield ports


@pytest.fixture
def ports(running: Ports) -> Iterator[Ports]:
    yield running
    running.reload(running.config())


def test_one_name_is_another_service_and_certificate_on_either_port(ports: Ports) -> None:
    leaves = set()
    for listener, service in ((0, "same-first"), (1, "same-second")):
        with connect(ports.target(listener, "same.example.test")) as connection:
            assert ask(connection) == service
            leaves.add(connection.getpeercert(binary_form=True))
    assert len(leaves) == 2


def test_a_name_of_the_other_port_is_an_unknown_one(ports: Ports) -> None:
    before = ports.failures()["unknown_sni"]
    assert ports.service(1, "only.example.test") == "only-second"
    assert ports.is_unknown(0, "only.example.test")
    assert ports.is_unknown(0, "nobody.example.test")
    wait_until(lambda: ports.failures()["unknown_sni"] == before + 2, "both are counted alike")


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("exact.wild.example.test", "exact-first", "wild"),  # an own exact name before a shared wildcard
        ("other.wild.example.test", "wild", "wild"),
        ("exact.narrow.example.test", "exact", "exact"),  # a shared exact name before an own wildcard
        ("OTHER.narrow.example.test", "narrow-first", "default-second"),
        ("moved.example.test", "moved", "default-second"),
        ("nobody.example.test", None, "default-second"),  # the default of one port is none of the other's
    ],
)
def test_what_is_more_exact_goes_first_whoever_has_it(
    ports: Ports, name: str, first: str | None, second: str
) -> None:
    if first is None:
        assert ports.is_unknown(0, name)
    else:
        assert ports.service(0, name) == first
    assert ports.service(1, name) == second


def test_without_a_name_the_port_s_own_default_serves(ports: Ports) -> None:
    context = client_context()
    with context.wrap_socket(connect_plain(ports.symphony.port(1))) as tls:
        assert ask(tls) == "default-second"
    with pytest.raises(OSError), connect_plain(ports.symphony.port(0)) as sock:
        context.wrap_socket(sock)


def _challenge(port: int, name: str) -> bytes:
    with connect_plain(port) as sock:
        sock.sendall(f"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        answer = b""
        while part := sock.recv(4096):
            answer += part
        return answer


def test_a_plain_listener_has_its_own_routes_for_challenges(ports: Ports) -> None:
    port = ports.symphony.port(2)
    answer = _challenge(port, "renewed.example.test")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"renewed\n")
    assert _challenge(port, "only.example.test").startswith(b"HTTP/1.1 404 ")
    assert _challenge(port, "a.wild.example.test").endswith(b"wild\n")


def test_a_route_moves_to_the_other_port_and_nobody_is_dropped(ports: Ports) -> None:
    moved, served = threading.Event(), list[str]()

    def go_on() -> None:
        """Other routes are served all the while."""
        while not moved.is_set():
            served.append(ports.service(0, "a.wild.example.test"))
            served.append(ports.service(1, "same.example.test"))

    before = ports.failures()
    others = Background(go_on)
    with connect(ports.target(0, "moved.example.test")) as open_before:
        try:
            assert ask(open_before) == "moved"
            wait_until(lambda: others.done or len(served) > 1, "others are served")
            routes = tuple(
                (sni, [SECOND] if service == "moved" else where, service) for sni, where, service in ROUTES
            )
            ports.reload(ports.config(routes))
            assert ask(open_before) == "moved"
            assert ports.service(1, "moved.example.test") == "moved"
            assert ports.is_unknown(0, "moved.example.test")
        finally:
            moved.set()
        others.result()
    assert set(served) == {"wild", "same-second"}
    wait_until(lambda: ports.failures() - before == Counter({"unknown_sni": 1}), "nobody else has failed")


def test_what_is_told_of_routes_names_their_listeners(ports: Ports) -> None:
    ports.service(0, "same.example.test")
    upstreams = {(found.route, found.upstream) for found in ports.symphony.status().upstreams}
    assert (f"same.example.test@{FIRST}", f"tcp://127.0.0.1:{ports.upstreams['same-first']}") in upstreams
    assert (f"same.example.test@{SECOND}", f"tcp://127.0.0.1:{ports.upstreams['same-second']}") in upstreams
    for command in ("certs", "routes"):
        names = {f"same.example.test@{FIRST}", f"same.example.test@{SECOND}", "*.wild.example.test"}
        told = json.loads(ports.symphony.command(command, "--json").stdout)
        found = {each["route"] for each in told} if command == "routes" else set(told[0]["routes"])
        found |= set(told[-1].get("routes", ()))
        assert names <= found and f"@{SECOND}" in found
        shown = ports.symphony.command(command)
        assert shown.returncode == 0, shown.stderr
    assert f"(default)@{SECOND}" in shown.stdout, shown.stdout
    drained = ports.symphony.command(
        "upstream", "same.example.test", f"tcp://127.0.0.1:{ports.upstreams['same-first']}", "drain"
    )
    assert drained.returncode == 0, drained.stderr
    assert f"same.example.test@{FIRST}" in drained.stdout and SECOND not in drained.stdout


def test_a_file_of_the_original_with_two_proxies_of_different_routes(tmp_path: Path) -> None:
    made = make_certificate(["app.example.test"])
    certificate = {"certChain": made.chain_pem.decode(), "privateKeyFile": "key.pem"}
    with NamedServices() as services, ExitStack() as stack:
        proxies = [
            {
                "listeners": [{"host": "127.0.0.1", "port": lasting_port(), "defaultCert": certificate}],
                "routes": [
                    {
                        "sni": "app.example.test",
                        "terminateTls": True,
                        "upstreams": [{"kind": "tcp", "host": "127.0.0.1", "port": services.tcp(name)}],
                    },
                    *more,
                ],
                "workerThreads": 1,
            }
            for name, more in (
                ("one", []),
                (
                    "two",
                    [
                        {
                            "sni": "",
                            "terminateTls": True,
                            "upstreams": [{"kind": "tcp", "host": "127.0.0.1", "port": services.tcp("rest")}],
                        }
                    ],
                ),
            )
        ]
        path = tmp_path / "symphony.json"
        path.write_text(json.dumps({"version": 1, "proxies": proxies}))
        (tmp_path / "key.pem").write_bytes(made.key_pem)
        (tmp_path / "key.pem").chmod(0o600)
        trust = tmp_path / "trust.pem"
        trust.write_bytes(made.chain_pem)
        symphony = stack.enter_context(running_symphony(None, arguments=("-c", str(path))))
        ports = Ports(symphony, str(trust), {})
        assert [ports.service(listener, "app.example.test") for listener in (0, 1)] == ["one", "two"]
        assert ports.is_unknown(0, "other.example.test")
        context = client_context()
        with context.wrap_socket(
            connect_plain(symphony.port(1)), server_hostname="other.example.test"
        ) as tls:
            assert ask(tls) == "rest"
