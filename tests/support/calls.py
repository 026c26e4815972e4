"""One call through the proxy by each kind of real client: curl, ``openssl s_client`` and Python's ssl module.

A client trusts one authority only and checks the name, so a call that comes back has seen the right certificate.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

LIMIT_S = 10.0
CLIENTS = ("python", "curl", "openssl")
_PROGRAM = {"curl": "curl", "openssl": "openssl"}
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class CallFailed(Exception):
    """A call got no whole answer, or the client did not accept the server's certificate."""


@dataclass(frozen=True)
class Target:
    """What a client needs to know: where, by which name, whom to trust (PEM file), and its own identity (likewise)."""

    port: int
    name: str
    trust: str
    identity: str = ""


@dataclass(frozen=True)
class Answer:
    """The service that answered, and the server's certificate (DER), empty where the client does not show it."""

    service: str
    certificate: bytes


def missing_clients() -> list[str]:
    """The programs that are not installed here."""
    return [program for program in _PROGRAM.values() if shutil.which(program) is None]


def call(client: str, target: Target) -> Answer:
    """Ask the service behind `target` for its name by an HTTP request. Raises CallFailed."""
    return _CALLS[client](target)


def client_context(target: Target) -> ssl.SSLContext:
    """The ssl module's context for `target`."""
    context = ssl.create_default_context(cafile=target.trust)
    if target.identity:
        context.load_cert_chain(target.identity)
    return context


def connect(
    target: Target, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A connection whose handshake is done. Raises OSError."""
    # Wrapped before it connects: the ssl module loses a socket that was reset before it is wrapped.
    connection = _wrap(socket.socket(), target, context, session)
    try:
        connection.settimeout(LIMIT_S)
        connection.connect(("127.0.0.1", target.port))
    except BaseException:
        connection.close()
        raise
    return connection


def shake(sock: socket.socket, target: Target) -> ssl.SSLSocket:
    """The TLS connection over `sock`, which is connected. Raises OSError."""
    return _wrap(sock, target, None, None)


def _wrap(
    sock: socket.socket, target: Target, context: ssl.SSLContext | None, session: ssl.SSLSession | None
) -> ssl.SSLSocket:
    return (context or client_context(target)).wrap_socket(
        sock,
        server_hostname=target.name,
        session=session,
        # An end without close_notify is a cut answer, and must not pass for a whole one.
        suppress_ragged_eofs=False,
    )


def ask(connection: ssl.SSLSocket) -> str:
    """The name of the service at the other end, by one line; the connection goes on."""
    connection.sendall(b"who\n")
    answer = b""
    while not answer.endswith(b"\n"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionResetError("closed instead of an answer")
        answer += part
    return answer.decode().removesuffix(" who\n")


def request(connection: ssl.SSLSocket, name: str) -> str:
    """The name of the service at the other end, by an HTTP request that ends the connection."""
    connection.sendall(f"GET / HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return _body(answer.decode())


def _call_python(target: Target) -> Answer:
    try:
        with connect(target) as connection:
            certificate = connection.getpeercert(binary_form=True) or b""
            return Answer(request(connection, target.name), certificate)
    except OSError as error:
        raise CallFailed(f"python: {error!r}") from error


def _call_curl(target: Target) -> Answer:
    command = ["curl", "--silent", "--show-error", "--fail", "--include", "--http1.1", "--noproxy", "*"]
    command += ["--max-time", f"{LIMIT_S:g}", "--cacert", target.trust]
    command += ["--resolve", f"{target.name}:{target.port}:127.0.0.1"]
    if target.identity:
        command += ["--cert", target.identity]
    return Answer(_body(_run([*command, f"https://{target.name}:{target.port}/"], "")), b"")


def _call_openssl(target: Target) -> Answer:
    output = s_client(target, "-verify_return_error", "-verify_hostname", target.name)
    found = _PEM.search(output)
    if found is None:
        raise CallFailed(f"openssl: no certificate in:\n{output}")
    return Answer(_body(output[output.index("HTTP/1.1 ") :]), ssl.PEM_cert_to_DER_cert(found[0]))


def s_client(target: Target, *arguments: str) -> str:
    """What ``openssl s_client`` prints during an HTTP request. Raises CallFailed when it fails."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{target.port}", "-servername", target.name]
    command += ["-CAfile", target.trust, "-ign_eof", *arguments]
    if target.identity:
        command += ["-cert", target.identity, "-key", target.identity]
    output = _run(command, f"GET / HTTP/1.1\r\nhost: {target.name}\r\n\r\n")
    if "HTTP/1.1 200 OK" not in output:
        raise CallFailed(f"openssl: no answer in:\n{output}")
    return output


def _run(command: list[str], text: str) -> str:
    environment: Mapping[str, str] = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise CallFailed(f"{command[0]}: no end within {2 * LIMIT_S:g} s") from error
    if done.returncode:
        raise CallFailed(f"{command[0]}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _body(answer: str) -> str:
    head, blank, body = answer.replace("\r\n", "\n").partition("\n\n")
    if not blank or not head.startswith("HTTP/1.1 200 OK"):
        raise CallFailed(f"no whole answer: {answer!r}")
    name, end, _ = body.partition("\n")
    if not end:
        raise CallFailed(f"a cut answer: {answer!r}")
    return name


_CALLS = {"python": _call_python, "curl": _call_curl, "openssl": _call_openssl}
