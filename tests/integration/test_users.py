"""Started by root, served by another user: who is who, who may write and say what, and that it all still works."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.messages import DescribeTree, StopTree, TreeDescription, TreeReply
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError, ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.events import SubscribeEvents
from symphony.messages.registry import ConfigDescription, DescribeConfig, RegistryReply, Reload
from symphony.tls.certificate_maker import MadeCertificate, make_certificate
from tests.support.acceptor import wait_until
from tests.support.forked import in_child
from tests.support.peers import Background, UpstreamHost
from tests.support.symphony_process import SymphonyProcess, run_symphony
from tests.support.tls_client import client_context, get

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = 65534
MADE = make_certificate(["a.test"])
CONFIG = """
workers = 2
user = "nobody"
[admin]
[[listeners]]
host = "127.0.0.1"
port = 0
protection = { max_concurrent_per_ip = 1000 }
default_cert = { cert_chain_file = "chain.pem", private_key_file = "key.pem" }
[[routes]]
sni = "a.test"
max_connections_per_second = 1000
upstreams = [{ kind = "tcp", host = "127.0.0.1", port = PORT }]
"""


class Upstream:
    """Answers every request with one word."""

    def __init__(self) -> None:
        self.host = UpstreamHost("tcp")
        self._serving = Background(self._serve)

    def _serve(self) -> None:
        try:
            while True:
                peer = self.host.accept()
                peer.receive()
                peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nserved")
                peer.sock.close()
        except OSError:
            return


@pytest.fixture(scope="module")
def symphony() -> Iterator[SymphonyProcess]:
    upstream = Upstream()
    instance = SymphonyProcess(
        CONFIG.replace("PORT", str(upstream.host.port)),
        files={"chain.pem": MADE.chain_pem, "key.pem": MADE.key_pem},
    )
    instance.directory.chmod(0o711)  # as /run is, and unlike mkdtemp's
    try:
        instance.start()
        yield instance
    finally:
        instance.clean_up()
        upstream.host.close()


def serves(symphony: SymphonyProcess, made: MadeCertificate = MADE) -> bool:
    try:
        answer = get(symphony.port(), "a.test", client_context())
    except OSError:
        return False
    return answer.body == b"served" and answer.certificate == ssl.PEM_cert_to_DER_cert(
        made.chain_pem.decode()
    )


def http_get(path: Path, target: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)


def users(pid: int) -> tuple[set[str], set[str], str]:
    """The user and group ids of a process, and its supplementary groups."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return set(lines["Uid"].split()), set(lines["Gid"].split()), lines["CapEff"].strip()


def check_users(symphony: SymphonyProcess) -> None:
    for actor in symphony.status().actors:
        assert actor.pid is not None
        if actor.name == "route-registry":
            assert users(actor.pid)[0] == {"0"}
        else:
            assert users(actor.pid) == ({str(NOBODY)}, {str(NOBODY)}, "0" * 16), actor.name


def test_who_is_who_and_everything_works(symphony: SymphonyProcess) -> None:
    check_users(symphony)
    assert all(serves(symphony) for _ in range(10))
    assert symphony.command("status", "--healthy").returncode == 0
    ready = http_get(symphony.runtime_dir / "admin-http.sock", "/health/ready")
    assert ready.startswith(b"HTTP/1.1 200")
    assert b"symphony_" in http_get(symphony.runtime_dir / "admin-http.sock", "/metrics")
    assert "may not send" not in symphony.log
    wait_until(
        lambda: set(symphony.status().actors) and all(a.state == "running" for a in symphony.status().actors),
        "all run and answer root",
    )


@pytest.mark.parametrize("name", ["acceptor-0", "route-registry", "rate-limiter", "cpu-sampler", "admin"])
def test_every_process_comes_back_as_who_it_was(symphony: SymphonyProcess, name: str) -> None:
    before = symphony.kill_child(name).pid
    wait_until(lambda: symphony.child(name).pid not in (before, 0), "it is started again")
    symphony.wait_running(name)
    wait_until(lambda: serves(symphony), "it serves")
    check_users(symphony)


def test_an_acceptor_that_starts_while_the_registry_is_silent(symphony: SymphonyProcess) -> None:
    """It takes the snapshot on disk, which it could not open any more as who it is."""
    import signal

    registry = symphony.wait_running("route-registry").pid
    os.kill(registry, signal.SIGSTOP)
    before = symphony.kill_child("acceptor-1").pid
    wait_until(lambda: symphony.child("acceptor-1").pid not in (before, 0), "it is started again")
    symphony.wait_running("acceptor-1")
    wait_until(lambda: symphony.logged("registry_silent"), "it begins with what is on disk")
    wait_until(lambda: symphony.child("route-registry").pid not in (registry, 0), "the hung one is replaced")
    symphony.wait_running("route-registry")
    assert serves(symphony)


def test_a_key_that_only_root_can_read_is_read_again(symphony: SymphonyProcess) -> None:
    made = make_certificate(["a.test"])
    symphony.write("chain.pem", made.chain_pem)
    symphony.write("key.pem", made.key_pem)
    assert symphony.command("reload").returncode == 0
    wait_until(lambda: serves(symphony, made), "the new certificate is served")
    symphony.write("chain.pem", MADE.chain_pem)
    symphony.write("key.pem", MADE.key_pem)
    assert symphony.command("reload").returncode == 0
    wait_until(lambda: serves(symphony), "the first certificate is served")


def test_workers_can_write_nothing(symphony: SymphonyProcess) -> None:
    assert stat.S_IMODE(symphony.runtime_dir.stat().st_mode) == 0o750

    def writable() -> list[str]:
        become_nobody()
        found = [str(symphony.runtime_dir)] if os.access(symphony.runtime_dir, os.W_OK) else []
        for path in symphony.runtime_dir.iterdir():
            if not stat.S_ISSOCK(path.lstat().st_mode) and os.access(path, os.W_OK | os.R_OK):
                found.append(str(path))
        return found

    assert in_child(writable) == []


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def said(symphony: SymphonyProcess, name: str, message: Any, replies: Any, uid: int = NOBODY) -> Any:
    """What a process of another user is answered; the name of the error when it is not."""

    def go() -> Any:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(uid, uid, uid)
        try:
            reply = asyncio.run(ask(mailbox_path(str(symphony.runtime_dir), name), message, replies, 5.0))
        except MailboxError as error:
            return type(error).__name__
        return type(reply).__name__

    return in_child(go)


def test_a_worker_may_ask_and_not_command(symphony: SymphonyProcess) -> None:
    version = symphony.status().config_version
    assert said(symphony, "supervisor", DescribeTree(), TreeReply) == TreeDescription.__name__
    assert said(symphony, "route-registry", DescribeConfig(), RegistryReply) == ConfigDescription.__name__
    assert said(symphony, "supervisor", StopTree(0.0), TreeReply) == "MailboxDown"
    assert said(symphony, "route-registry", Reload(), RegistryReply) == "MailboxDown"
    assert said(symphony, "acceptor-0", SubscribeEvents(), AcceptorReply) == "MailboxDown"
    # Another user of the same group has no business here at all.
    assert said(symphony, "supervisor", DescribeTree(), TreeReply, uid=NOBODY - 1) == "MailboxDown"
    assert symphony.status().config_version == version
    assert serves(symphony)


def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    for name, content in (("chain.pem", MADE.chain_pem), ("key.pem", MADE.key_pem)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "symphony.toml"
    text = CONFIG.replace("PORT", "1")
    for change, place in (
        ('user = "no-such-user"', "user: there is no user no-such-user"),
        ('user = "nobody"\ngroup = "no-such-group"', "group: there is no group no-such-group"),
        ('group = "nogroup"', "group: means nothing without user"),
    ):
        file.write_text(text.replace('user = "nobody"', change))
        done = run_symphony("check", "-c", str(file))
        assert done.returncode == 2 and place in done.stderr, done.stderr
    shutil.rmtree(tmp_path)


def test_an_upgrade_is_served_by_the_other_user_as_well(symphony: SymphonyProcess) -> None:
    done = symphony.command("upgrade")
    assert done.returncode == 0, done.stderr
    acceptor = symphony.pid_of("acceptor-0")
    assert users(acceptor)[0] == {str(NOBODY)}
    assert users(symphony.serving_pid)[0] == {"0"}
    assert serves(symphony)
    assert symphony.wait() == 0
    # Mailboxes are found by whoever starts again, in the place where they are now.
    symphony.kill_child("rate-limiter")
    symphony.kill_child("acceptor-1")
    symphony.wait_running("acceptor-1")
    symphony.wait_running("rate-limiter")
    assert all(serves(symphony) for _ in range(8))
    wait_until(
        lambda: b"200 OK" in http_get(symphony.runtime_dir / "admin-http.sock", "/health/live"), "admin"
    )
    assert not [line for line in symphony.events() if line["level"] == "error"]
