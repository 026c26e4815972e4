"""Other people's programs that a test runs in the foreground, each with its configuration in a directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.ports import lasting_port

LIMIT_S = 20.0
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian has nginx's stream module, which is a package of its own."""


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Running:
    """A program in the foreground, with its configuration in a directory of its own."""

    def __init__(self, directory: Path, command: list[str], port: int) -> None:
        self.port = port
        self._log = directory / "output"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(LIMIT_S)


def haproxy_that_tells(directory: Path) -> Running:
    """HAProxy, which answers requests with what it has read in the PROXY header."""
    path, port = program("haproxy"), lasting_port()
    said = "%[src] %[src_port] %[dst] %[dst_port] %[fc_rcvd_proxy] %[fc_pp_authority] %[fc_pp_unique_id]"
    (directory / "haproxy.cfg").write_text(f"""
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend receiver
    bind 127.0.0.1:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string "{said}"
""")
    return Running(directory, [path, "-db", "-f", str(directory / "haproxy.cfg")], port)
