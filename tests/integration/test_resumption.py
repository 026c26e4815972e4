"""TLS sessions resume in every acceptor, in its successors and under new snapshots, and on no other route."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from symphony.config.snapshot import ClientAuthority, Identity, Snapshot
from symphony.observe.counters import ACCEPTED, HANDSHAKES, RESUMED
from symphony.tls.certificate_maker import MadeCertificate, make_authority, make_certificate
from tests.support.acceptor import AcceptorRig, Tls, complaints, route, snapshot
from tests.support.actor_process import Stage
from tests.support.registry_stand_in import ready, registry
from tests.support.services import Service
from tests.support.tls_client import client_context, get

LIMIT_S = 10
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
MANY = 20  # connections, of which two acceptors get some each but for one time in a million

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program here")

_second = make_certificate(["second.test"])
SECOND = Identity(_second.chain_pem, _second.key_pem)
AUTHORITY = make_authority("clients")
REQUIRED = ClientAuthority(AUTHORITY.cert_pem, True)
OPTIONAL = ClientAuthority(AUTHORITY.cert_pem, False)
OTHERS = ClientAuthority(make_authority("others").cert_pem, False)
ALICE = make_certificate(["alice"], authority=AUTHORITY, client=True)

ROUTES = ("plain.test", "same.test", "second.test", "required.test", "optional.test", "others.test")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service("service") as service:
        yield service


def published(service: Service, version: int = 1, names: tuple[str, ...] = ROUTES) -> Snapshot:
    policies = {"second.test": 1, "required.test": 2, "optional.test": 3, "others.test": 4}
    return snapshot(
        *(route(name, service.upstream, policy=policies.get(name, 0)) for name in names),
        version=version,
        more=[Tls(SECOND), Tls(authority=REQUIRED), Tls(authority=OPTIONAL), Tls(authority=OTHERS)],
    )


@contextmanager
def two_acceptors(service: Service) -> Iterator[AcceptorRig]:
    with ExitStack() as stack:
        stage = stack.enter_context(Stage())
        rig = AcceptorRig(stage, published(service), acceptors=2)
        stack.callback(rig.close)
        processes = [rig.start(index) for index in range(2)]
        yield rig
        assert [complaints(process) for process in processes] == [[], []]


@pytest.fixture(scope="module")
def rig(service: Service) -> Iterator[AcceptorRig]:
    with two_acceptors(service) as rig:
        yield rig


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["plain.test", "required.test", "optional.test"])
def test_session_resumes_whichever_acceptor_answers(
    rig: AcceptorRig, name: str, version: ssl.TLSVersion
) -> None:
    context = client_context(version=version, certificate=None if name == "plain.test" else ALICE)
    first = get(rig.port, name, context)
    assert not first.reused and first.session is not None
    accepted = [page.values[ACCEPTED] for page in rig.pages]
    handshakes, resumed = rig.total(HANDSHAKES), rig.total(RESUMED)
    for _ in range(MANY):
        answer = get(rig.port, name, context, first.session)
        assert answer.reused and answer.body == b"service"
    assert rig.total(HANDSHAKES) - handshakes == rig.total(RESUMED) - resumed == MANY
    assert all(page.values[ACCEPTED] > before for page, before in zip(rig.pages, accepted, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_made_by_a_resumed_connection_resume_too(rig: AcceptorRig, version: ssl.TLSVersion) -> None:
    context = client_context(version=version)
    answer = get(rig.port, "plain.test", context)
    for _ in range(5):
        answer = get(rig.port, "plain.test", context, answer.session)
        assert answer.reused


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("names", "certificate"),
    [
        (("plain.test", "second.test", "required.test", "optional.test"), ALICE),
        (("plain.test", "second.test", "optional.test", "others.test"), None),
    ],
)
def test_session_resumes_on_no_route_with_another_certificate_or_authority(
    rig: AcceptorRig, names: tuple[str, ...], certificate: MadeCertificate | None, version: ssl.TLSVersion
) -> None:
    """The handshake goes on in full instead."""
    context = client_context(version=version, certificate=certificate)
    for made_for in names:
        first = get(rig.port, made_for, context)
        for used_for in names:
            again = get(rig.port, used_for, context, first.session)
            assert again.body == b"service"
            assert again.reused is (made_for == used_for)


@pytest.mark.parametrize("version", VERSIONS)
def test_session_is_no_way_around_a_client_certificate(rig: AcceptorRig, version: ssl.TLSVersion) -> None:
    """A session made without a certificate, on the same server certificate, is worth nothing where one is required."""
    context = client_context(version=version)
    for made_for in ("plain.test", "optional.test"):
        first = get(rig.port, made_for, context)
        with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
            get(rig.port, "required.test", context, first.session)


@needs_openssl
def test_openssl_reconnects_by_tls_1_2(rig: AcceptorRig) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{rig.port}", "-servername", "plain.test"]
    done = subprocess.run(
        [*command, "-tls1_2", "-reconnect"], input=b"", capture_output=True, timeout=LIMIT_S
    )
    printed = done.stdout.decode()
    assert len(re.findall(r"^New, TLSv1\.2", printed, re.MULTILINE)) == 1
    assert len(re.findall(r"^Reused, TLSv1\.2", printed, re.MULTILINE)) == 5


@needs_openssl
@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_openssl_session_files(
    rig: AcceptorRig, option: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("session") / "session.pem")

    def connect(name: str, *words: str) -> str:
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{rig.port}",
            "-servername",
            name,
            "-ign_eof",
        ]
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        done = subprocess.run(
            [*command, option, *words],
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
        )
        return done.stdout.decode(errors="replace")

    assert "New, TLSv1" in connect("plain.test", "-sess_out", path)
    assert os.path.getsize(path)
    for _ in range(5):
        assert "Reused, TLSv1" in connect("plain.test", "-sess_in", path)
    other = connect("second.test", "-sess_in", path)
    assert "New, TLSv1" in other and "service" in other


def test_session_survives_the_acceptors_that_made_it(service: Service) -> None:
    with ExitStack() as stack:
        stage = stack.enter_context(Stage())
        rig = AcceptorRig(stage, published(service))
        stack.callback(rig.close)
        process = rig.start()
        contexts = [client_context(version=version) for version in VERSIONS]
        firsts = [get(rig.port, "plain.test", context) for context in contexts]
        process.signal(signal.SIGKILL)
        process.wait_exit()
        rig.start()
        for context, first in zip(contexts, firsts, strict=True):
            assert get(rig.port, "plain.test", context, first.session).reused


async def test_session_survives_new_snapshots(service: Service) -> None:
    """Also one in which its route was missing, so that the context was thrown away and made anew."""
    with Stage() as stage:
        rig = AcceptorRig(stage, None)
        try:
            async with registry(stage, published(service)) as stand_in:
                await ready(rig.start(ready=False))
                contexts = [client_context(version=version) for version in VERSIONS]
                firsts = [get(rig.port, "plain.test", context) for context in contexts]
                await stand_in.publish_and_wait(published(service, 2, ("plain.test", "second.test")))
                for context, first in zip(contexts, firsts, strict=True):
                    assert get(rig.port, "plain.test", context, first.session).reused
                bare = snapshot(route("elsewhere.test", service.upstream), identity=SECOND, version=3)
                await stand_in.publish_and_wait(bare)
                await stand_in.publish_and_wait(published(service, 4))
                for context, first in zip(contexts, firsts, strict=True):
                    assert get(rig.port, "plain.test", context, first.session).reused
                changed = snapshot(route("plain.test", service.upstream), identity=SECOND, version=5)
                await stand_in.publish_and_wait(changed)
                for context, first in zip(contexts, firsts, strict=True):
                    answer = get(rig.port, "plain.test", context, first.session)
                    assert answer.body == b"service" and not answer.reused
        finally:
            rig.close()
