"""The access log and the log file of a real instance, with real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from symphony.tls.certificate_maker import MadeCertificate, make_certificate
from tests.support.services import Service
from tests.support.symphony_process import SymphonyProcess, running_symphony
from tests.support.tls_client import get

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def made() -> MadeCertificate:
    return make_certificate(["a.example", "gone.example"])


def configuration(service: Service, *, log: str) -> str:
    return f"""
workers = 2
{log}
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}

[[routes]]
sni = "a.example"
http2 = true
upstreams = [{{ kind = "uds", path = "{service.path}" }}]

[[routes]]
sni = "gone.example"
upstreams = [{{ kind = "uds", path = "missing.sock" }}]

[[routes]]
sni = "raw.example"
terminate_tls = false
upstreams = [{{ kind = "uds", path = "{service.path}" }}]
"""


def files(made: MadeCertificate) -> dict[str, bytes]:
    return {"cert.pem": made.chain_pem, "key.pem": made.key_pem}


def client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def lines(symphony: SymphonyProcess, count: int, event: str = "connection") -> list[dict[str, Any]]:
    """The first `count` lines, as soon as they are there."""
    deadline = time.monotonic() + LIMIT_S
    while len(found := symphony.logged(event)) < count:
        assert time.monotonic() < deadline, symphony.log
        time.sleep(0.02)
    assert len(found) == count
    return found


def test_every_connection_has_its_line(made: MadeCertificate) -> None:
    with (
        Service("one") as service,
        running_symphony(
            configuration(service, log="access_log = {}"), files=files(made), arguments=["--workers", "1"]
        ) as symphony,
    ):
        context = client()
        answer = get(symphony.port(), "a.example", context)
        assert answer.body == b"one"
        [line] = lines(symphony, 1)
        assert line["reason"] == "" and line["sni"] == line["route"] == "a.example"
        assert line["tls"] == "TLSv1.3" and line["cipher"].startswith("TLS_") and line["alpn"] == "http/1.1"
        assert line["resumed"] is False and line["upstream"] == f"unix:{service.path}"
        assert line["bytes_up"] == len("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert line["bytes_down"] > 0 and line["peer"].startswith("127.0.0.1 ")
        assert line["duration_ms"] >= line["handshake_ms"] > 0 and line["connect_ms"] >= 0
        assert line["listener"] == symphony.status().listeners[0].id and line["id"]
        get(symphony.port(), "a.example", context, answer.session)
        assert lines(symphony, 2)[1]["resumed"] is True
        with suppress(OSError):  # a reset, unless it comes before the client reads
            assert get(symphony.port(), "gone.example", context).body == b""
        failed = lines(symphony, 3)[2]
        assert failed["reason"] == "upstream_missing" and failed["route"] == "gone.example"
        assert "missing.sock" in failed["detail"]
        with socket.create_connection(("127.0.0.1", symphony.port()), timeout=LIMIT_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            try:
                assert sock.recv(100) == b""
            except ConnectionResetError:
                pass
        garbage = lines(symphony, 4)[3]
        assert garbage["reason"] == "not_tls" and "tls" not in garbage and "route" not in garbage
        # Each has one line, and not the one of a failure besides.
        assert symphony.logged("connection_failed") == []
        assert len({line["id"] for line in lines(symphony, 4)}) == 4


def test_a_sample_and_its_change_by_reload(made: MadeCertificate) -> None:
    with (
        Service("one") as service,
        running_symphony(
            configuration(service, log="access_log = { rate = 0.5 }"),
            files=files(made),
            arguments=["--workers", "1"],
        ) as symphony,
    ):
        context = client()
        for _ in range(60):
            get(symphony.port(), "a.example", context)
        # Outside of these bounds once in 10^9 runs.
        assert 6 <= len(symphony.logged("connection")) <= 54
        symphony.config_file.write_text(configuration(service, log=""))
        reloaded = symphony.command("reload")
        assert reloaded.returncode == 0, reloaded.stderr
        version = symphony.status().config_version
        symphony.wait_for(lambda status: symphony.acceptor("acceptor-0").version == version)
        before = len(symphony.logged("connection"))
        for _ in range(10):
            get(symphony.port(), "a.example", context)
        assert len(symphony.logged("connection")) == before


@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan", '"all"'])
def test_a_rate_that_is_none(made: MadeCertificate, rate: str, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_bytes(made.chain_pem)
    (tmp_path / "key.pem").write_bytes(made.key_pem)
    (tmp_path / "key.pem").chmod(0o600)
    with Service("one") as service:
        config = tmp_path / "symphony.toml"
        config.write_text(configuration(service, log=f"access_log = {{ rate = {rate} }}"))
        checked = subprocess.run(
            [sys.executable, "-m", "symphony", "check", "-c", str(config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert checked.returncode != 0
    assert "access_log.rate" in checked.stdout + checked.stderr


def test_the_log_file_is_opened_again_when_it_is_moved(made: MadeCertificate, tmp_path: Path) -> None:
    path = tmp_path / "symphony.log"
    old = tmp_path / "symphony.log.1"

    def logged(file: Path, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return [line for line in found if line["event"] == event]

    with Service("one") as service:
        symphony = SymphonyProcess(
            configuration(service, log="access_log = {}"),
            files=files(made),
            arguments=["--workers", "1", "--log-file", str(path)],
        )
        try:
            symphony.spawn()
            deadline = time.monotonic() + LIMIT_S
            while not path.exists() or not logged(path, "ready"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            context = client()
            port = int(symphony.status().listeners[0].address.rpartition(":")[2])
            get(port, "a.example", context)
            while not logged(path, "connection"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            path.rename(old)
            os.kill(symphony.pid, signal.SIGUSR1)
            while not path.exists() or not logged(path, "connection"):
                assert time.monotonic() < deadline + LIMIT_S
                get(port, "a.example", context)
                time.sleep(0.05)
            assert symphony.stop() == 0
            assert logged(path, "stopped") and not logged(old, "stopped")
        finally:
            symphony.clean_up()
