"""A running instance whose files change under it: certificates, keys, authorities, lists, and the configuration."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.acceptor import wait_until
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import SteppedClient, client_context, connect

NAMES = ["a.test", "b.test", "c.test", "d.test"]
# Well over the time in which a change comes into force.
QUIET_S = 1.0

CONFIG = """
workers = 1
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "volume/tls.crt", private_key_file = "volume/tls.key" }
protection = { blocklist = ["@blocked.txt"] }

[[routes]]
sni = "a.test"
cert = { cert_chain_file = "a.pem", private_key_file = "a.key" }
upstreams = [{ kind = "uds", path = "nobody.sock" }]

[[routes]]
sni = "b.test"
upstreams = [{ kind = "uds", path = "nobody.sock" }]

[[routes]]
sni = "c.test"
mtls = { client_ca_cert_file = "ca.pem" }
upstreams = [{ kind = "uds", path = "nobody.sock" }]
"""
ONE_MORE = """
[[routes]]
sni = "d.test"
upstreams = [{ kind = "uds", path = "nobody.sock" }]
"""


def make() -> MadeCertificate:
    return make_certificate(NAMES)


def put(path: Path, content: bytes) -> None:
    """Write a file as careful tools do: beside it, then renamed over it."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.rename(path)


def publish(volume: Path, number: int, made: MadeCertificate) -> None:
    """What the kubelet does to a volume made from a secret."""
    version = volume / f"..2026_{number}"
    version.mkdir(parents=True)
    put(version / "tls.crt", made.chain_pem)
    put(version / "tls.key", made.key_pem)
    (volume / "..data_tmp").symlink_to(version.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    if number > 1:
        shutil.rmtree(volume / f"..2026_{number - 1}")


@contextmanager
def served(watch: bool | None) -> Iterator[SymphonyProcess]:
    """An instance with two certificates of its own, one of them in a volume of Kubernetes'."""
    symphony = SymphonyProcess(CONFIG, watch=watch)
    try:
        made = make()
        symphony.write("a.pem", made.chain_pem)
        symphony.write("a.key", made.key_pem)
        symphony.write("ca.pem", make_authority("first").cert_pem)
        symphony.write("blocked.txt", b"127.0.0.9\n")
        publish(symphony.directory / "volume", 1, make())
        symphony.start()
        yield symphony
    finally:
        symphony.clean_up()


@pytest.fixture
def watched() -> Iterator[SymphonyProcess]:
    with served(watch=None) as symphony:
        yield symphony
        assert "Traceback" not in symphony.log


def leaf(symphony: SymphonyProcess, name: str, context: ssl.SSLContext | None = None) -> bytes | None:
    """The certificate that a client of `name` is shown; None when there is no handshake."""
    client = SteppedClient(name, context)
    try:
        with connect(symphony.port()) as sock:
            client.finish(sock)
    except OSError:
        return None
    return client.tls.getpeercert(binary_form=True)


def der(made: MadeCertificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.chain_pem.decode())


def wait_shown(symphony: SymphonyProcess, name: str, made: MadeCertificate) -> None:
    wait_until(lambda: leaf(symphony, name) == der(made), f"clients of {name} see the new certificate")


def test_certificate_and_key_by_rename(watched: SymphonyProcess) -> None:
    other = leaf(watched, "b.test")
    for _ in range(2):
        made = make()
        put(watched.directory / "a.pem", made.chain_pem)
        put(watched.directory / "a.key", made.key_pem)
        wait_shown(watched, "a.test", made)
    assert leaf(watched, "b.test") == other


def test_certificate_and_key_in_place(watched: SymphonyProcess) -> None:
    made = make()
    watched.write("a.key", made.key_pem)
    watched.write("a.pem", made.chain_pem)
    wait_shown(watched, "a.test", made)


def test_a_volume_of_kubernetes(watched: SymphonyProcess) -> None:
    for number in (2, 3, 4):
        made = make()
        publish(watched.directory / "volume", number, made)
        wait_shown(watched, "b.test", made)


@pytest.mark.parametrize("name", ["a.test", "b.test"], ids=["of-a-route", "of-a-listener"])
def test_in_the_middle_of_a_rotation(watched: SymphonyProcess, name: str) -> None:
    """The new chain is there and its key is not: the last good pair stays, until the key follows."""
    chain, key = {
        "a.test": (watched.directory / "a.pem", watched.directory / "a.key"),
        "b.test": (watched.directory / "volume" / "tls.crt", watched.directory / "volume" / "tls.key"),
    }[name]
    before = leaf(watched, name)
    made = make()
    put(chain, made.chain_pem)
    wait_until(lambda: watched.logged("configuration problem"), "it is told")
    wait_until(lambda: watched.logged("configuration reloaded"), "it was tried")
    assert leaf(watched, name) == before
    told = watched.logged("configuration problem")[-1]
    assert told["level"] == "error"
    assert "does not match" in told["problem"] or "does not belong" in told["problem"], told
    put(key, made.key_pem)
    wait_shown(watched, name, made)


def test_a_client_authority(watched: SymphonyProcess) -> None:
    authority = make_authority("second")
    context = client_context(
        certificate=make_certificate(["client.test"], authority=authority, client=True),
        version=ssl.TLSVersion.TLSv1_2,  # so that a refusal is part of the handshake
    )
    assert leaf(watched, "c.test", context) is None
    put(watched.directory / "ca.pem", authority.cert_pem)
    wait_until(lambda: leaf(watched, "c.test", context) is not None, "the client is known")


def test_a_list_of_networks(watched: SymphonyProcess) -> None:
    def let_in(source: str) -> bool:
        try:
            with socket.create_connection(
                ("127.0.0.1", watched.port()), timeout=10, source_address=(source, 0)
            ) as sock:
                SteppedClient("a.test").finish(sock)
        except OSError:
            return False
        return True

    assert let_in("127.0.0.8")
    assert not let_in("127.0.0.9")
    put(watched.directory / "blocked.txt", b"127.0.0.8\n")
    wait_until(lambda: let_in("127.0.0.9"), "the old address is let in")
    assert not let_in("127.0.0.8")


def test_the_configuration_itself(watched: SymphonyProcess) -> None:
    """A broken file changes nothing and is told; once it is mended it comes into force, and its files are watched."""
    assert leaf(watched, "d.test") is None
    put(watched.config_file, (CONFIG + ONE_MORE).encode())
    wait_until(lambda: leaf(watched, "d.test") is not None, "the new route is there")
    put(watched.config_file, b"nonsense = ")
    wait_until(lambda: watched.logged("configuration problem"), "it is told")
    assert leaf(watched, "d.test") is not None
    own = 'sni = "d.test"\ncert = { cert_chain_file = "d.pem", private_key_file = "d.key" }'
    text = (CONFIG + ONE_MORE).replace('sni = "d.test"', own)
    problems = len(watched.logged("configuration problem"))
    put(watched.config_file, text.encode())
    wait_until(lambda: len(watched.logged("configuration problem")) > problems, "its files are not there")
    made = make()
    put(watched.directory / "d.key", made.key_pem)
    put(watched.directory / "d.pem", made.chain_pem)
    wait_shown(watched, "d.test", made)


def test_what_does_not_concern_it_reloads_nothing(watched: SymphonyProcess) -> None:
    for number in range(20):
        watched.write(f"unrelated-{number}", b"x")
    for name in ("a.pem", "a.key", "symphony.toml"):
        os.utime(watched.directory / name)
    put(watched.directory / "a.pem", (watched.directory / "a.pem").read_bytes())
    with pytest.raises(AssertionError):
        wait_until(lambda: watched.logged("configuration reloaded"), "a reload", limit_s=QUIET_S)
    made = make()
    put(watched.directory / "a.pem", made.chain_pem)
    put(watched.directory / "a.key", made.key_pem)
    wait_shown(watched, "a.test", made)


def test_the_registry_watches_on_in_its_next_life(watched: SymphonyProcess) -> None:
    watched.kill_child("route-registry")
    made = make()
    put(watched.directory / "a.pem", made.chain_pem)
    put(watched.directory / "a.key", made.key_pem)
    wait_shown(watched, "a.test", made)


def test_watching_ends_with_the_key_and_begins_with_it(watched: SymphonyProcess) -> None:
    put(watched.config_file, ("watch = false\n" + CONFIG).encode())
    wait_until(lambda: watched.logged("configuration reloaded"), "the key is read")
    expect_no_reload(watched)
    put(watched.config_file, CONFIG.encode())
    assert watched.command("reload").returncode == 0
    made = make()
    put(watched.directory / "a.pem", made.chain_pem)
    put(watched.directory / "a.key", made.key_pem)
    wait_shown(watched, "a.test", made)


def test_the_command_line_stands_above_the_key() -> None:
    with served(watch=False) as symphony:
        expect_no_reload(symphony)
    with served(watch=True) as symphony:
        put(symphony.config_file, ("watch = false\n" + CONFIG).encode())
        made = make()
        put(symphony.directory / "a.pem", made.chain_pem)
        put(symphony.directory / "a.key", made.key_pem)
        wait_shown(symphony, "a.test", made)


def expect_no_reload(symphony: SymphonyProcess) -> None:
    """A new certificate is not noticed, but it is taken when that is asked for."""
    before, reloads = leaf(symphony, "a.test"), len(symphony.logged("configuration reloaded"))
    made = make()
    put(symphony.directory / "a.pem", made.chain_pem)
    put(symphony.directory / "a.key", made.key_pem)
    with pytest.raises(AssertionError):
        wait_until(
            lambda: len(symphony.logged("configuration reloaded")) > reloads, "a reload", limit_s=QUIET_S
        )
    assert leaf(symphony, "a.test") == before
    done = symphony.command("reload")
    assert done.returncode == 0, done.stderr
    wait_shown(symphony, "a.test", made)


def test_an_instance_without_files_that_may_be_written(tmp_path: Path) -> None:
    """Nothing is watched that is not there; a start with inline certificates watches the configuration alone."""
    made = make()
    chain, key = made.chain_pem.decode(), made.key_pem.decode()
    inline = f"cert_chain = '''{chain}'''\nprivate_key = '''{key}'''\n"
    config = f"""
[[listeners]]
host = "127.0.0.1"
port = 0
[listeners.default_cert]
{inline}
[[routes]]
sni = "a.test"
upstreams = [{{ kind = "uds", path = "nobody.sock" }}]
"""
    with running_symphony(config, watch=None) as symphony:
        assert leaf(symphony, "a.test") == der(made)
        put(symphony.config_file, config.replace('"a.test"', '"b.test"').encode())
        wait_until(lambda: leaf(symphony, "b.test") == der(made), "the route has another name")
