"""The PROXY headers that are written, read by nginx and HAProxy; and those that HAProxy writes, read here."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from symphony.relay import proxy_tlv
from symphony.relay.proxy_protocol import Address, Header, encode_local, encode_v1, encode_v2, parse
from symphony.tls.certificate_maker import Authority, make_authority, make_certificate
from tests.support.ports import lasting_port
from tests.support.programs import Running, haproxy_that_tells, program
from tests.support.proxy_headers import tlv

LIMIT_S = 20.0
V4: tuple[Address, Address] = ("203.0.113.7", 56324), ("198.51.100.9", 443)
V6: tuple[Address, Address] = ("2001:db8::7", 56324), ("2001:db8::9", 443)
TLVS = [
    proxy_tlv.alpn(b"http/1.1"),
    proxy_tlv.authority(b"shop.example.com"),
    proxy_tlv.unique_id(b"connection-17"),
    proxy_tlv.ssl(b"TLSv1.3", b"TLS_AES_128_GCM_SHA256", common_name=b"client"),
    proxy_tlv.ja3("ada70206e40642a3e4461f35503241d5"),
    proxy_tlv.ja4("t13d1516h2_8daaf6152771_e5627efa2ab1"),
    *proxy_tlv.client_certificates([b"leaf" * 200, b"issuer" * 200]),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def nginx(directory: Path) -> Iterator[Running]:
    path, port = program("nginx"), lasting_port()
    (directory / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_header_buffer_size 8k;  # the whole PROXY header must fit; the default of 1k is too small for certificates
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
    }}
}}
""")
    running = Running(directory, [path, "-p", str(directory), "-c", str(directory / "nginx.conf")], port)
    yield running
    running.stop()


@pytest.fixture
def haproxy(directory: Path) -> Iterator[Running]:
    running = haproxy_that_tells(directory)
    yield running
    running.stop()


def answer(port: int, header: bytes) -> str | None:
    """What the receiver says to a request behind `header`; None when it hangs up without a word."""
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as client:
        data = header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        received = b""
        try:
            client.sendall(data)
            while part := client.recv(65536):
                received += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # how a receiver refuses a header
        if not received:
            return None
        head, _, body = received.partition(b"\r\n\r\n")
        status = head.split(b" ")[1]
        return body.decode() if status == b"200" else f"status {status.decode()}"


@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
def test_nginx_reads_what_is_written(nginx: Running, addresses: tuple[Address, Address]) -> None:
    expected = "{} {} {} {}".format(*addresses[0], *addresses[1])
    assert answer(nginx.port, encode_v1(*addresses)) == expected
    assert answer(nginx.port, encode_v2(*addresses)) == expected
    assert answer(nginx.port, encode_v2(*addresses, TLVS, checksum=True)) == expected
    # with no address in the header nginx has none to say, and serves the request all the same
    for header in (encode_v1(None, None), encode_local()):
        said = answer(nginx.port, header)
        assert said is not None
        assert str(addresses[0][0]) not in said


@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
def test_haproxy_reads_what_is_written(haproxy: Running, addresses: tuple[Address, Address]) -> None:
    expected = "{} {} {} {} 1".format(*addresses[0], *addresses[1])
    assert (answer(haproxy.port, encode_v1(*addresses)) or "").strip() == expected
    for checksum in (False, True):
        said = answer(haproxy.port, encode_v2(*addresses, TLVS, checksum=checksum))
        assert said == f"{expected} shop.example.com connection-17"


def test_haproxy_finds_a_wrong_checksum(haproxy: Running) -> None:
    """So it is HAProxy's own arithmetic that the checksum was right by in the other test."""
    good = encode_v2(*V4, TLVS[:3], checksum=True)
    assert answer(haproxy.port, good) is not None
    assert answer(haproxy.port, good[:-1] + bytes([good[-1] ^ 1])) is None


def test_haproxy_takes_local_for_the_connection_itself(haproxy: Running) -> None:
    said = answer(haproxy.port, encode_local())
    assert said is not None
    assert said.startswith("127.0.0.1 ")


class Sender:
    """HAProxy in front of a socket of this test, terminating TLS and sending PROXY headers."""

    def __init__(self, directory: Path, option: str) -> None:
        path = program("haproxy")
        made = make_certificate(["shop.example.com"])
        (directory / "both.pem").write_bytes(made.chain_pem + made.key_pem)
        self._directory = directory
        self.authority = make_authority("clients")
        (directory / "ca.pem").write_bytes(self.authority.cert_pem)
        self.upstream = socket.create_server(("127.0.0.1", 0))
        self.upstream.settimeout(LIMIT_S)
        try:
            port = lasting_port()
            (directory / "sender.cfg").write_text(f"""
defaults
    mode tcp
    timeout client 10s
    timeout connect 10s
    timeout server 10s
listen sender
    bind 127.0.0.1:{port} ssl crt {directory}/both.pem alpn h2,http/1.1 ca-file {directory}/ca.pem \
verify optional crt-ignore-err all ca-ignore-err all
    unique-id-format connection-%[src_port]
    server upstream 127.0.0.1:{self.upstream.getsockname()[1]} {option}
""")
            self.running = Running(directory, [path, "-db", "-f", str(directory / "sender.cfg")], port)
        except BaseException:
            self.upstream.close()
            raise

    def header(self, context: ssl.SSLContext) -> tuple[bytes, Header, tuple[str, int], str]:
        """The bytes of a header, what is read in them, and the client's address and cipher."""
        with (
            socket.create_connection(("127.0.0.1", self.running.port), LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname="shop.example.com") as client,
        ):
            name, cipher = client.getsockname(), client.cipher()
            assert cipher is not None
            client.sendall(b"behind the header")
            data = b""
            while True:
                connection, _ = self.upstream.accept()  # the first may be of waiting for HAProxy to listen
                with connection:
                    connection.settimeout(LIMIT_S)
                    while not data.endswith(b"behind the header"):
                        part = connection.recv(65536)
                        if not part:
                            break
                        data += part
                if data.endswith(b"behind the header"):
                    break
                data = b""
        found = parse(data)
        assert isinstance(found, Header)
        assert data[found.size :] == b"behind the header"
        return data[: found.size], found, name, cipher[0]

    def client_certificate(self, name: str, authority: Authority) -> Path:
        """A file with a certificate and its key."""
        made = make_certificate([name], authority=authority, client=True)
        path = self._directory / f"{name}.pem"
        path.write_bytes(made.chain_pem + made.key_pem)
        return path

    def stop(self) -> None:
        self.running.stop()
        self.upstream.close()


def client_context(certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def test_a_version_1_header_of_haproxy(directory: Path) -> None:
    sender = Sender(directory, "send-proxy")
    try:
        data, found, client, _ = sender.header(client_context())
        assert (found.version, found.source) == (1, client)
        assert found.destination == ("127.0.0.1", sender.running.port)
        assert data == encode_v1(found.source, found.destination)
    finally:
        sender.stop()


def test_a_version_2_header_of_haproxy(directory: Path) -> None:
    options = "ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id"
    sender = Sender(directory, f"send-proxy-v2 proxy-v2-options {options}")
    try:
        good = sender.client_certificate("good", sender.authority)
        bad = sender.client_certificate("bad", make_authority("others"))
        for name, certificate in (("", None), ("good", good), ("bad", bad)):
            _, found, client, cipher = sender.header(client_context(certificate))
            assert (found.version, found.source) == (2, client)
            assert found.destination == ("127.0.0.1", sender.running.port)
            assert tlv(found, proxy_tlv.ALPN) == b"h2"
            assert tlv(found, proxy_tlv.AUTHORITY) == b"shop.example.com"
            assert tlv(found, proxy_tlv.UNIQUE_ID) == f"connection-{client[1]}".encode()
            assert tlv(found, proxy_tlv.CRC32C) is not None
            said = proxy_tlv.read_ssl(tlv(found, proxy_tlv.SSL) or b"")
            assert said is not None
            assert (said.version, said.cipher) == (b"TLSv1.3", cipher.encode())
            assert said.certificate_on_connection == bool(name)
            assert said.verified == (name == "good")
            assert said.common_name == name.encode()
    finally:
        sender.stop()
