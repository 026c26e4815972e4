"""What stands behind the proxies: nginx on Unix sockets (plain, TLS, with PROXY headers), and a sink for uploads."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path

from tools.bench import certs
from tools.bench.content import DOWN, SMALL
from tools.bench.process import Program, StartFailed, raise_descriptor_limit

READY_S = 10.0


def nginx_config(directory: Path, pair: certs.KeyPair, connections: int) -> str:
    """Return the configuration of the backend nginx: static files, kept connections that never run out.

    It is given twice the connections that are needed, because nginx closes idle ones when a sixteenth is left.
    """
    return f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections {2 * connections}; }}
http {{
    access_log off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    open_file_cache max=16;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/bodies;
    fastcgi_temp_path {directory}/bodies;
    uwsgi_temp_path {directory}/bodies;
    scgi_temp_path {directory}/bodies;
    server {{
        listen unix:{directory}/http.sock backlog=4096;
        listen unix:{directory}/https.sock ssl backlog=4096;
        listen unix:{directory}/proxied.sock proxy_protocol backlog=4096;
        ssl_certificate {pair.chain};
        ssl_certificate_key {pair.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        root {directory}/www;
    }}
}}
"""


class Backend:
    """The running backend. `.plain`, `.tls`, `.proxied` and `.sink` are the paths of its Unix sockets."""

    def __init__(self, directory: Path, pair: certs.KeyPair, core: set[int] | None) -> None:
        """Start it on the given cores. StartFailed when it does not come up. Only nginx has `.tls` and `.proxied`."""
        self.has_nginx = shutil.which("nginx") is not None
        self.sink = directory / "sink.sock"
        self.plain = directory / "http.sock" if self.has_nginx else self.sink
        self.tls = directory / "https.sock"
        self.proxied = directory / "proxied.sock"
        self._programs: list[Program] = []
        try:
            command = [sys.executable, "-m", "tools.bench.sink", str(self.sink)]
            self._programs.append(start_backend("sink", command, directory, core, [self.sink]))
            if self.has_nginx:
                (directory / "www").mkdir()
                (directory / "www" / "small").write_bytes(SMALL)
                (directory / "www" / "down").write_bytes(DOWN)
                config = directory / "nginx.conf"
                config.write_text(nginx_config(directory, pair, raise_descriptor_limit()))
                command = ["nginx", "-c", str(config), "-e", str(directory / "nginx-error.log")]
                sockets = [self.plain, self.tls, self.proxied]
                self._programs.append(start_backend("backend nginx", command, directory, core, sockets))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop whatever of it runs."""
        for program in reversed(self._programs):
            program.stop()


def start_backend(
    name: str, command: list[str], directory: Path, core: set[int] | None, paths: list[Path]
) -> Program:
    """Start a program and return it when all its Unix sockets accept. StartFailed when they do not in time."""
    program = Program(name, command, directory / f"{name.replace(' ', '-')}.log", core)
    deadline = time.monotonic() + READY_S
    try:
        while not all(_answers(path) for path in paths):
            if program.exit_code is not None or time.monotonic() > deadline:
                raise StartFailed(f"{name} did not start: {program.tail()}")
            time.sleep(0.01)
    except BaseException:
        program.stop()
        raise
    return program


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
