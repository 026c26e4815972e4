"""What ``symphony run --demo`` needs: a certificate, a configuration file that uses it, and a free port."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from symphony.tls.certificate_maker import make_certificate

FIRST_PORT = 8443
_PORTS_TRIED = 100
HOST = "127.0.0.1"
UPSTREAM_SOCKET = "http.sock"


@dataclass(frozen=True, slots=True)
class Demo:
    """The files of a demonstration, all in `directory`."""

    directory: str
    config_file: str
    certificate_file: str
    upstream_path: str
    port: int

    @property
    def curl_line(self) -> str:
        """The request to try from another shell."""
        return f"curl --cacert {self.certificate_file} https://localhost:{self.port}/"


def write_demo(runtime_dir: str) -> Demo:
    """Make a certificate for ``localhost`` and a configuration in ``<runtime_dir>/demo``.

    Raises OSError when the directory cannot be written or no port is free.
    """
    directory = os.path.join(runtime_dir, "demo")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    demo = Demo(
        directory=directory,
        config_file=os.path.join(directory, "symphony.toml"),
        certificate_file=os.path.join(directory, "cert.pem"),
        upstream_path=os.path.join(directory, UPSTREAM_SOCKET),
        port=_free_port(),
    )
    made = make_certificate(["localhost", "127.0.0.1", "::1"])
    _write(demo.certificate_file, made.chain_pem)
    _write(os.path.join(directory, "key.pem"), made.key_pem)
    _write(demo.config_file, _render(demo).encode())
    return demo


def _render(demo: Demo) -> str:
    return f"""\
# Written by `symphony run --demo`, anew with every start.
drain_timeout_ms = 5000

[[listeners]]
host = "{HOST}"
port = {demo.port}
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}

# The default route: whatever name a client asks for.
[[routes]]
sni = ""
upstreams = [{{ kind = "uds", path = {_toml_string(demo.upstream_path)} }}]
"""


def _toml_string(text: str) -> str:
    # A TOML basic string takes every escape that JSON writes for text without surrogates.
    return json.dumps(text, ensure_ascii=False)


def _free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port on {HOST} from {FIRST_PORT} to {FIRST_PORT + _PORTS_TRIED - 1}")


def _write(path: str, content: bytes) -> None:
    """Write a file that only its owner can read, replacing one that is there as a whole."""
    new = f"{path}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(new, path)
