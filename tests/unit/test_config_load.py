"""From a file to a snapshot: what a good file becomes, and everything that is wrong with a bad one."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from symphony.config.credentials import is_exposed
from symphony.config.loaded import Loaded
from symphony.config.model import TcpUpstream, UdsUpstream
from symphony.config.problem import ConfigError, Severity
from symphony.config.resolve import load
from symphony.config.snapshot import Snapshot
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate

DAY = timedelta(days=1)
TCP = 'upstreams = [{ kind = "tcp", host = "127.0.0.1", port = 8080 }]'
CERT = 'cert = { cert_chain_file = "a.pem", private_key_file = "a.key" }'
DEFAULT_CERT = 'default_cert = { cert_chain_file = "default.pem", private_key_file = "default.key" }'
LISTENER = f"[[listeners]]\nport = 8443\n{DEFAULT_CERT}\n"
PLAIN = '[[listeners]]\nport = 8080\nmode = "http"\n'

Write = Callable[[str], str]


@pytest.fixture(scope="module")
def made() -> dict[str, MadeCertificate]:
    return {name: make_certificate([f"{name}.example"]) for name in ("a", "b", "default")}


@pytest.fixture
def folder(tmp_path: Path, made: dict[str, MadeCertificate]) -> Path:
    for name, certificate in made.items():
        put(tmp_path, name, certificate)
    (tmp_path / "ca.pem").write_bytes(make_authority("Clients").cert_pem)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    def write(text: str) -> str:
        (folder / "symphony.toml").write_text(text, "utf-8")
        return str(folder / "symphony.toml")

    return write


def put(folder: Path, name: str, certificate: MadeCertificate) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.chain_pem)
    (folder / f"{name}.key").write_bytes(certificate.key_pem)
    (folder / f"{name}.key").chmod(0o600)


def route(sni: str, *keys: str) -> str:
    return "\n".join(("[[routes]]", f'sni = "{sni}"', *(keys or (TCP,)), ""))


def found(loaded: Loaded) -> dict[str, str]:
    """Problems by place; a warning's text begins with "warning"."""
    result: dict[str, str] = {}
    for problem in loaded.problems:
        assert problem.place not in result, loaded.problems
        mark = "warning: " if problem.severity is Severity.WARNING else ""
        result[problem.place] = mark + problem.text
    text = "\n".join(problem.line("f") for problem in loaded.problems)
    assert "PRIVATE KEY-----" not in text
    return result


def only(loaded: Loaded) -> tuple[str, str]:
    problems = found(loaded)
    assert len(problems) == 1, problems
    return next(iter(problems.items()))


def policy_of(snapshot: Snapshot, position: int, listener: int = 0) -> tuple[str, str, bool]:
    """The chain, the authority and the HTTP/2 offer that a route has on a listener."""
    policy = snapshot.policies[snapshot.routes[position].policies[listener]]
    authority = snapshot.client_authorities.get(policy.client_authority)
    required = "" if authority is None else "required" if authority.required else "optional"
    return snapshot.identities[policy.identity].chain_pem.decode(), required, policy.http2


def test_a_whole_configuration(folder: Path, write: Write, made: dict[str, MadeCertificate]) -> None:
    a, default = made["a"].chain_pem.decode(), made["default"].chain_pem.decode()
    path = write(
        f"""
        workers = 3
        drain_timeout_ms = 5
        [[listeners]]
        port = 8443
        {DEFAULT_CERT}
        mtls = {{ client_ca_cert_file = "ca.pem" }}
        [[listeners]]
        host = "::"
        port = 8443
        idle_timeout_ms = 7
        half_close_timeout_ms = 8
        max_connections = 9
        [[routes]]
        sni = "A.example."
        {TCP}
        {CERT}
        http2 = true
        [[routes]]
        sni = "*.Bücher.example"
        upstreams = [{{ kind = "uds", path = "run/app.sock", pid = 5, tid = 6, connect_timeout_ms = 10 }},
                     {{ kind = "tcp", host = "LocalHost", port = 1 }}]
        {CERT}
        mtls = {{ client_ca_cert_file = "ca.pem", require_client_cert = false }}
        max_connections_per_second = 20
        [[routes]]
        sni = ""
        terminate_tls = false
        {TCP}
        max_connections_per_second = 0.5
        [[routes]]
        sni = "d.example"
        {TCP}
        burst = 7
        max_connections_per_second = 2
        """
    )
    loaded = load(path)
    assert found(loaded) == {
        "routes[3].cert": "warning: is missing, and so is the default_cert of [::]:8443: "
        "the route will not be served there"
    }
    config, snapshot = loaded.require()
    assert (config.workers, snapshot.version, snapshot.drain_timeout_ms) == (3, 1, 5)
    assert [listener.id for listener in snapshot.listeners] == ["0.0.0.0:8443", "[::]:8443"]
    listener = snapshot.listeners[1]
    assert (listener.idle_timeout_ms, listener.half_close_timeout_ms, listener.max_connections) == (7, 8, 9)
    assert [entry.sni for entry in snapshot.routes] == [
        "a.example",
        "*.xn--bcher-kva.example",
        "",
        "d.example",
    ]
    assert snapshot.routes[1].upstreams == (
        UdsUpstream(path=str(folder / "run/app.sock"), pid=5, tid=6, connect_timeout_ms=10),
        TcpUpstream(host="localhost", port=1),
    )
    limits = [(entry.rate, entry.burst) for entry in snapshot.routes]
    assert limits == [(0.0, 0.0), (20.0, 20.0), (0.5, 1.0), (2.0, 7.0)]
    assert policy_of(snapshot, 0, 0) == (a, "required", True)
    assert policy_of(snapshot, 0, 1) == (a, "", True)
    assert policy_of(snapshot, 1, 0) == policy_of(snapshot, 1, 1) == (a, "optional", False)
    assert snapshot.routes[2].policies == ()
    assert policy_of(snapshot, 3, 0) == (default, "required", False)
    assert snapshot.routes[3].policies[1] == -1
    assert (len(snapshot.policies), len(snapshot.identities), len(snapshot.client_authorities)) == (4, 2, 2)


def test_identities_and_policies_are_shared_by_contents(folder: Path, write: Write) -> None:
    (folder / "copy.pem").write_bytes((folder / "a.pem").read_bytes())
    chain, key = (folder / "a.pem").read_text(), (folder / "a.key").read_text()
    path = write(
        LISTENER
        + route("1", TCP, CERT).replace('"1"', '"one"')
        + route("two", TCP, 'cert = { cert_chain_file = "copy.pem", private_key_file = "a.key" }')
        + route("three", TCP, f"cert = {{ cert_chain = '''{chain}''', private_key = '''{key}''' }}")
        + route("four", TCP, f"cert = {{ cert_chain = '''{chain}''', private_key_file = 'a.key' }}")
    )
    _, snapshot = load(path).require()
    assert len(snapshot.identities) == len(snapshot.policies) == 1
    assert {entry.policies for entry in snapshot.routes} == {(0,)}


def test_free_ports_may_repeat(write: Write) -> None:
    listeners = "[[listeners]]\nport = 0\n" * 2 + '[[listeners]]\nhost = "127.0.0.1"\nport = 0\n'
    _, snapshot = load(write(listeners + route("a", TCP, CERT))).require()
    assert [listener.id for listener in snapshot.listeners] == ["0.0.0.0:0", "0.0.0.0:0#2", "127.0.0.1:0"]


def test_plain_http_needs_no_certificate(write: Write) -> None:
    loaded = load(write(PLAIN + LISTENER + PLAIN.replace("8080", "81\nredirect_port = 8443") + route("a")))
    assert loaded.problems == ()
    _, snapshot = loaded.require()
    modes = [(entry.mode, entry.redirect_port) for entry in snapshot.listeners]
    assert modes == [("http", 443), ("tls", 443), ("http", 8443)]
    assert snapshot.routes[0].policies == (-1, 0, -1)


def test_plain_http_alone(write: Write) -> None:
    loaded = load(write(PLAIN + route("a") + route("b", TCP, CERT)))
    assert loaded.problems == ()
    _, snapshot = loaded.require()
    assert [entry.policies for entry in snapshot.routes] == [(-1,), (-1,)]
    assert snapshot.identities == {}


def test_overrides_stand_above_the_file(write: Write) -> None:
    path = write('workers = 1\nruntime_dir = "/a"\n' + LISTENER + route("a"))
    config, _ = load(path, overrides={"workers": 4}).require()
    assert (config.workers, config.runtime_dir) == (4, "/a")
    assert "workers" in found(load(path, overrides={"workers": 0}))


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (LISTENER, "routes", "warning: is empty"),
        (f"listeners = []\n{route('a')}", "listeners", "expected at least one listener"),
        (f'runtime_dir = ""\n{LISTENER}{route("a")}', "runtime_dir", "expected a directory"),
        (LISTENER + route("a", "upstreams = []"), "routes[0].upstreams", "expected at least one"),
        (LISTENER + '[[routes]]\nsni = "a"\n', "routes[0].upstreams", "expected at least one"),
        (
            LISTENER + route("a", TCP, "suspend_timeout_ms = 5"),
            "routes[0].suspend_timeout_ms",
            "without suspended",
        ),
        (
            LISTENER + route("a", "suspended = true", "suspend_timeout_ms = 0"),
            "routes[0].suspend_timeout_ms",
            "from 1 to",
        ),
        (LISTENER + route("127.0.0.1"), "routes[0].sni", "is an address"),
        (LISTENER + route("xn--zzzzzz"), "routes[0].sni", "internationalised"),
        (LISTENER + route("a.*.b"), "routes[0].sni", "none may stand"),
        (LISTENER + route("a", TCP, "burst = 5"), "routes[0].burst", "without max_connections_per_second"),
        (
            LISTENER + route("a", TCP, "max_connections_per_second = inf"),
            "routes[0].max_connections_per_second",
            "finite",
        ),
        (
            LISTENER + route("a", TCP, "max_connections_per_second = 1", "burst = inf"),
            "routes[0].burst",
            "finite",
        ),
        (LISTENER + route("a", TCP, "terminate_tls = false", CERT), "routes[0].cert", "is the upstream's"),
        (
            LISTENER + route("a", TCP, "terminate_tls = false", 'mtls = { client_ca_cert_file = "ca.pem" }'),
            "routes[0].mtls",
            "is the upstream's",
        ),
        (
            LISTENER + route("a", TCP, "terminate_tls = false", "http2 = true"),
            "routes[0].http2",
            "upstream's",
        ),
        (
            LISTENER + route("a", 'upstreams = [{ kind = "tcp", host = "a_b-", port = 1 }]'),
            "routes[0].upstreams[0].host",
            "not a label",
        ),
        (
            LISTENER + route("a", 'upstreams = [{ kind = "uds", path = "" }]'),
            "routes[0].upstreams[0].path",
            "is empty",
        ),
        (
            LISTENER + route("a", 'upstreams = [{ kind = "uds", path = "a\\u0000b" }]'),
            "routes[0].upstreams[0].path",
            "not a file name",
        ),
        (
            LISTENER + route("a", f'upstreams = [{{ kind = "uds", path = "/{"x" * 107}" }}]'),
            "routes[0].upstreams[0].path",
            "108 bytes: expected at most 107",
        ),
        (
            LISTENER + route("a", 'upstreams = [{ kind = "uds", path = "/a", pid = 1 }]'),
            "routes[0].upstreams[0].tid",
            "is missing",
        ),
        (
            LISTENER + route("a", 'upstreams = [{ kind = "uds", path = "/a", tid = 1 }]'),
            "routes[0].upstreams[0].pid",
            "is missing",
        ),
        ("[[listeners]]\nport = 1\n" + route("a"), "routes[0].cert", "no listener has a default_cert"),
        (LISTENER + route("a", TCP, "cert = {}"), "routes[0].cert", "is empty"),
        (LISTENER + route("a", TCP, 'cert = { cert_chain_file = "a.pem" }'), "routes[0].cert", "but no key"),
        (
            LISTENER + route("a", TCP, 'cert = { private_key_file = "a.key" }'),
            "routes[0].cert",
            "no certificate chain",
        ),
        (LISTENER + route("a", TCP, "mtls = {}"), "routes[0].mtls", "names no authority"),
        (
            LISTENER + route("a", TCP, CERT.replace('"a.pem"', '"a.pem", cert_chain = "x"')),
            "routes[0].cert.cert_chain",
            "beside cert_chain_file",
        ),
        (
            LISTENER + route("a", TCP, CERT.replace('"a.key"', '"a.key", private_key = "x"')),
            "routes[0].cert.private_key",
            "beside private_key_file",
        ),
        (
            LISTENER + route("a", TCP, 'mtls = { client_ca_cert = "x", client_ca_cert_file = "ca.pem" }'),
            "routes[0].mtls.client_ca_cert",
            "beside client_ca_cert_file",
        ),
        (
            LISTENER + route("a", TCP, CERT.replace("a.key", "gone.key")),
            "routes[0].cert.private_key_file",
            "does not exist",
        ),
        (
            LISTENER + route("a", TCP, CERT.replace("a.key", ".")),
            "routes[0].cert.private_key_file",
            "is a directory",
        ),
        (
            LISTENER + route("a", TCP, CERT.replace("a.key", "b.key")),
            "routes[0].cert.private_key_file",
            '"b.key" does not match the certificate',
        ),
        (
            LISTENER + route("a", TCP, CERT.replace("a.pem", "symphony.toml")),
            "routes[0].cert.cert_chain_file",
            "is not PEM",
        ),
        (
            LISTENER + route("a", TCP, CERT.replace("a.pem", "a.key")),
            "routes[0].cert.cert_chain_file",
            "no CERTIFICATE block",
        ),
        (
            LISTENER + route("a", TCP, 'mtls = { client_ca_cert = "x" }'),
            "routes[0].mtls.client_ca_cert",
            "the text is not PEM",
        ),
        (
            LISTENER.replace("default.key", "b.key"),
            "listeners[0].default_cert.private_key_file",
            "does not match",
        ),
        (LISTENER + 'host = "*"\n' + route("a"), "listeners[0].host", "wildcard"),
        (LISTENER + 'host = "::ffff:1.2.3.4"\n' + route("a"), "listeners[0].host", 'expected "1.2.3.4"'),
        (LISTENER + 'mode = "http"\n' + route("a"), "listeners[0].default_cert", "there is no TLS"),
        (PLAIN + 'mtls = { client_ca_cert_file = "ca.pem" }\n' + route("a"), "listeners[0].mtls", "no TLS"),
        (
            PLAIN + "protection = { require_sni = true }\n" + route("a"),
            "listeners[0].protection.require_sni",
            "no TLS",
        ),
        (
            PLAIN + f'protection = {{ ja3_blocklist = ["{"a" * 32}"] }}\n' + route("a"),
            "listeners[0].protection.ja3_blocklist",
            "no TLS",
        ),
        (
            PLAIN
            + 'protection = { ja4_blocklist = ["t13d1516h2_8daaf6152771_b0da82dd1658"] }\n'
            + route("a"),
            "listeners[0].protection.ja4_blocklist",
            "no TLS",
        ),
        (LISTENER + "redirect_port = 8443\n" + route("a"), "listeners[0].redirect_port", 'mode = "http"'),
        (PLAIN + "redirect_port = 0\n" + route("a"), "listeners[0].redirect_port", "from 1 to 65535"),
        (PLAIN.replace("http", "htpp") + route("a", TCP, CERT), "listeners[0].mode", 'did you mean "http"?'),
        (
            PLAIN + "[[listeners]]\nport = 1\n" + route("a"),
            "routes[0].cert",
            "is missing, and no listener has a default_cert",
        ),
        (
            PLAIN + LISTENER + "[[listeners]]\nport = 1\n" + route("a"),
            "routes[0].cert",
            "warning: is missing, and so is the default_cert of 0.0.0.0:1:",
        ),
    ],
)
def test_single_problems(write: Write, text: str, place: str, reason: str) -> None:
    if not text.count("[[routes]]") and place != "routes":
        text += route("a")
    loaded = load(write(text))
    assert only(loaded)[0] == place
    assert reason in only(loaded)[1]
    if "warning" not in reason:
        with pytest.raises(ConfigError) as caught:
            loaded.require()
        assert str(caught.value).startswith(f"{loaded.file}: {place}: ")


@pytest.mark.parametrize(
    ("hosts", "conflict"),
    [
        (("0.0.0.0", "0.0.0.0"), True),
        (("0.0.0.0", "127.0.0.1"), True),
        (("127.0.0.1", "0.0.0.0"), True),
        (("::", "::1"), True),
        (("::0", "::"), True),
        (("localhost", "LOCALHOST"), True),
        (("0.0.0.0", "::"), False),
        (("127.0.0.1", "::"), False),
        (("127.0.0.1", "127.0.0.2"), False),
        (("localhost", "0.0.0.0"), False),
    ],
)
def test_listeners_on_one_address(write: Write, hosts: tuple[str, str], conflict: bool) -> None:
    text = "".join(f'[[listeners]]\nhost = "{host}"\nport = 8443\n' for host in hosts)
    loaded = load(write(text + route("a", TCP, CERT)))
    if conflict:
        place, reason = only(loaded)
        assert place == "listeners[1]"
        assert "listeners[0]" in reason
    else:
        assert not loaded.problems
    assert not load(write(text.replace("8443", "8444", 1) + route("a", TCP, CERT))).problems


@pytest.mark.parametrize("pair", [("a.example", "A.EXAMPLE."), ("bücher.de", "xn--bcher-kva.de"), ("", "")])
def test_duplicate_names_name_both_places(write: Write, pair: tuple[str, str]) -> None:
    loaded = load(write(LISTENER + route(pair[0]) + route("between") + route(pair[1])))
    place, reason = only(loaded)
    assert place == "routes[2].sni"
    assert "routes[0]" in reason
    assert loaded.snapshot is not None
    assert [entry.sni for entry in loaded.snapshot.routes] == ["between"]


def test_a_key_that_others_can_read_is_a_warning(folder: Path, write: Write) -> None:
    (folder / "a.key").chmod(0o644)
    place, reason = only(load(write(LISTENER + route("a", TCP, CERT))))
    assert place == "routes[0].cert.private_key_file"
    assert "warning" in reason
    assert "mode 0644" in reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("owner", "warned"), [(0, False), (65534, True)])
def test_a_key_that_a_group_can_read_must_be_roots(
    folder: Path, write: Write, owner: int, warned: bool
) -> None:
    os.chown(folder / "a.key", owner, 65534)
    (folder / "a.key").chmod(0o640)
    assert bool(load(write(LISTENER + route("a", TCP, CERT))).problems) is warned


@pytest.mark.parametrize("owner", [0, 1000])
def test_who_may_read_a_key(owner: int) -> None:
    for mode in range(0o1000):
        status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 1000, 0, 0, 0, 0))
        for_others, for_group = mode & 7, mode >> 3 & 7
        fine = not for_others and (not for_group or (owner == 0 and for_group == 4))
        assert is_exposed(status) is not fine, oct(mode)


def test_a_key_that_may_not_be_read(made: dict[str, MadeCertificate]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    user = os.geteuid()
    try:
        folder.chmod(0o755)
        put(folder, "a", made["a"])
        (folder / "a.key").chmod(0)
        (folder / "c.toml").write_text("[[listeners]]\nport = 1\n" + route("a", TCP, CERT))
        if user == 0:
            os.seteuid(65534)  # root may read everything
        loaded = load(str(folder / "c.toml"))
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)
    place, reason = only(loaded)
    assert place == "routes[0].cert.private_key_file"
    assert "Permission denied" in reason


def test_an_expired_certificate_is_warned_of_once(folder: Path, write: Write) -> None:
    now = datetime.now(UTC)
    put(folder, "a", make_certificate(["a"], not_before=now - 2 * DAY, not_after=now - DAY))
    path = write(LISTENER + "".join(route(name, TCP, CERT) for name in ("one", "two", "three")))
    loaded = load(path)
    place, reason = only(loaded)
    assert place == "routes[0].cert.cert_chain_file"
    assert reason.startswith('warning: "a.pem" has a certificate that expired on')
    assert reason.endswith("(so in 2 more places)")
    assert len(loaded.require()[1].routes) == 3
    # While it was valid, the listener's certificate, made just now, was not yet.
    assert list(found(load(path, now=now - 1.5 * DAY))) == ["listeners[0].default_cert.cert_chain_file"]


def test_pem_text_under_a_key_for_a_file_name_is_not_shown(folder: Path, write: Write) -> None:
    key = (folder / "a.key").read_text()
    place, reason = only(load(write(LISTENER + route("a", TCP, CERT.replace('"a.key"', f"'''{key}'''")))))
    assert place == "routes[0].cert.private_key_file"
    assert key.splitlines()[1] not in reason


def test_no_face_of_a_loaded_configuration_shows_a_key(folder: Path, write: Write) -> None:
    key = (folder / "a.key").read_text()
    loaded = load(
        write(
            LISTENER
            + route("a", TCP, CERT.replace('private_key_file = "a.key"', f"private_key = '''{key}'''"))
        )
    )
    assert loaded.require()
    assert key.splitlines()[1] not in repr(loaded)


def test_everything_wrong_is_told_at_once_and_in_order(write: Write) -> None:
    path = write(
        'worker = 1\nworkers = "two"\nruntime_dir = ""\n'
        + LISTENER
        + "max_conections = 5\n"
        + LISTENER
        + route("ok")
        + route("a", "upstreams = []", CERT.replace("a.key", "b.key"))
        + route("a", TCP, "http2 = 1")
        + route(
            "b", 'upstreams = [{ kind = "uds", path = "/a", pid = 1 }]', CERT.replace("a.key", "gone.key")
        )
    )
    loaded = load(path)
    assert list(found(loaded)) == [
        "worker",
        "workers",
        "runtime_dir",
        "listeners[0].max_conections",
        "routes[1].upstreams",
        "routes[1].cert.private_key_file",
        "routes[2].http2",
        "routes[2].sni",
        "routes[3].upstreams[0].tid",
        "routes[3].cert.private_key_file",
    ]
    assert loaded.snapshot is None
    assert loaded.config is None


def test_a_missing_half_shows_also_when_the_other_cannot_be_read(write: Write) -> None:
    loaded = load(write(LISTENER + route("a", TCP, 'cert = { cert_chain_file = "gone.pem" }')))
    assert list(found(loaded)) == ["routes[0].cert.cert_chain_file", "routes[0].cert"]


def test_a_broken_listener_does_not_make_routes_look_broken(write: Write) -> None:
    listeners = "[[listeners]]\nport = 1\n" + LISTENER.replace("default.key", "gone.key")
    assert list(found(load(write(listeners + route("a"))))) == ["listeners[1].default_cert.private_key_file"]


def test_a_missing_certificate_shows_also_beside_other_mistakes(write: Write) -> None:
    loaded = load(write('workers = "x"\n[[listeners]]\nport = 1\n' + route("a")))
    assert list(found(loaded)) == ["workers", "routes[0].cert"]


def test_broken_routes_are_left_out_and_named(write: Write) -> None:
    path = write(
        LISTENER
        + route("good")
        + route("Typo.example", TCP, "http3 = true")
        + route("empty", "upstreams = []")
        + route("..", TCP)
        + route("x", TCP).replace('"x"', "5")
    )
    loaded = load(path)
    assert loaded.broken == (("typo.example", ()), ("empty", ()), None, None)
    assert loaded.config is not None
    assert loaded.snapshot is not None
    assert [entry.sni for entry in loaded.config.routes] == ["good"]
    assert [entry.sni for entry in loaded.snapshot.routes] == ["good"]
    assert len(loaded.own_policies) == 1


@pytest.mark.parametrize("content", ["routes = 5", "routes = {}", "routes = [5]"])
def test_routes_that_are_none(write: Write, content: str) -> None:
    loaded = load(write(f"{content}\n{LISTENER}"))
    assert only(loaded)[0].startswith("routes")


def test_a_file_that_cannot_be_read_is_a_finding_too(tmp_path: Path) -> None:
    loaded = load(str(tmp_path / "none.toml"))
    assert (loaded.config, loaded.snapshot) == (None, None)
    with pytest.raises(ConfigError, match="does not exist"):
        loaded.require()


def test_ten_thousand_routes_on_one_certificate(write: Write) -> None:
    path = write(LISTENER + "".join(route(f"host{number}.example", TCP, CERT) for number in range(10_000)))
    started = time.process_time()
    _, snapshot = load(path).require()
    # A third of this on the slowest machine seen; a check or read per route would take ten times as long.
    assert time.process_time() - started < 3
    assert (len(snapshot.routes), len(snapshot.policies), len(snapshot.identities)) == (10_000, 1, 1)


def test_suspended_routes_need_neither_upstreams_nor_certificates(write: Write) -> None:
    """What they have is kept for connections that are resolved to it, for passthrough too."""
    bare = '[[listeners]]\nport = 1\nmtls = { client_ca_cert_file = "ca.pem" }\n'
    _, snapshot = load(
        write(
            bare
            + route("bare", "suspended = true")
            + route("passed", "suspended = true", "terminate_tls = false", CERT, "suspend_timeout_ms = 7")
            + route("plain", TCP, CERT)
        )
    ).require()
    entries = {entry.sni: entry for entry in snapshot.routes}
    assert [entries[name].suspend_timeout_ms for name in ("bare", "passed", "plain")] == [30000, 7, 0]
    assert entries["bare"].upstreams == ()
    policies = {name: snapshot.policies[entry.policies[0]] for name, entry in entries.items()}
    assert policies["bare"].identity == ""
    assert policies["passed"].identity == policies["plain"].identity in snapshot.identities
    # The listener's demand for client certificates holds for whatever certificate a resolution brings.
    assert {policy.client_authority for policy in policies.values()} == set(snapshot.client_authorities)
    assert "" not in snapshot.identities


TWO_LISTENERS = LISTENER + LISTENER.replace("[[listeners]]", '[[listeners]]\nhost = "LocalHost"')


def test_routes_of_listeners(write: Write) -> None:
    text = TWO_LISTENERS + route("a", TCP, 'listeners = ["LocalHost:8443"]')
    text += route("a", TCP, 'listeners = ["0.0.0.0:8443"]') + route("b")
    text += route("c", TCP, 'listeners = ["localhost:8443", "0.0.0.0:8443"]')
    _, snapshot = load(write(text)).require()
    assert [(entry.sni, entry.listeners) for entry in snapshot.routes] == [
        ("a", ("localhost:8443",)),
        ("a", ("0.0.0.0:8443",)),
        ("b", ()),
        ("c", ("0.0.0.0:8443", "localhost:8443")),
    ]
    assert len({entry.number for entry in snapshot.routes}) == 4


@pytest.mark.parametrize(
    ("listeners", "place", "text"),
    [
        ('["localhost:1"]', "[0]", 'no listener "localhost:1": expected "0.0.0.0:8443", "localhost:8443"'),
        ('["localhost:8443", "LocalHost:8443"]', "[1]", 'names "localhost:8443" twice'),
        ('["8443"]', "[0]", 'no listener "8443"'),
        ('"localhost:8443"', "", "expected an array of strings"),
        ("[8443]", "[0]", "expected a string"),
    ],
)
def test_listeners_of_a_route_that_are_none(write: Write, listeners: str, place: str, text: str) -> None:
    loaded = load(write(TWO_LISTENERS + route("a", TCP, f"listeners = {listeners}") + route("b")))
    where, what = only(loaded)
    assert where == f"routes[0].listeners{place}"
    assert text in what
    assert loaded.snapshot is not None and [entry.sni for entry in loaded.snapshot.routes] == ["b"]


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ([], [], '"a" is already the name of routes[0]: expected each name once'),
        ([], ["localhost:8443"], '"a" is already the name of routes[0] on localhost:8443: expected each'),
        (["localhost:8443"], [], '"a" is already the name of routes[0] on localhost:8443: expected each'),
        (
            ["localhost:8443", "0.0.0.0:8443"],
            ["localhost:8443"],
            '"a" is already the name of routes[0] on localhost:8443: expected each name once on every',
        ),
    ],
)
def test_a_listener_has_each_name_once(write: Write, first: list[str], second: list[str], text: str) -> None:
    routes = (route(name, TCP, f"listeners = {where!r}") for name, where in (("a", first), ("A", second)))
    loaded = load(write(TWO_LISTENERS + "".join(routes) + route("b")))
    where, what = only(loaded)
    assert where == "routes[1].sni"
    assert what.startswith(text)
    assert loaded.snapshot is not None and [entry.sni for entry in loaded.snapshot.routes] == ["b"]


def test_only_the_listeners_of_a_route_need_a_certificate_for_it(write: Write) -> None:
    bare = "[[listeners]]\nport = 9443\n"
    here = route("a", TCP, 'listeners = ["0.0.0.0:8443"]')
    assert found(load(write(LISTENER + bare + here))) == {}
    there = route("a", TCP, 'listeners = ["0.0.0.0:9443"]')
    place, text = only(load(write(LISTENER + bare + there)))
    assert place == "routes[0].cert" and "no listener of the route has a default_cert" in text


def test_a_route_on_plain_listeners_alone_is_warned_of(write: Write) -> None:
    on_plain = route("a", TCP, 'listeners = ["0.0.0.0:8080"]')
    place, text = only(load(write(LISTENER + PLAIN + on_plain + route("b"))))
    assert place == "routes[0].listeners"
    assert text.startswith('warning: has listeners with mode = "http" only')
    both = route("a", TCP, 'listeners = ["0.0.0.0:8080", "0.0.0.0:8443"]')
    assert found(load(write(LISTENER + PLAIN + both))) == {}
    assert found(load(write(PLAIN + on_plain))) == {}
