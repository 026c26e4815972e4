"""Reloads of a running instance, by command and by signal: what changes for new connections, and what for open ones."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.acceptor import wait_until
from tests.support.calls import Answer, CallFailed, Target, ask, call, client_context, connect
from tests.support.showcase import Expected, Showcase, running_showcase

ACCEPTORS = ("acceptor-0", "acceptor-1")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
# More connections than by chance all go to one of two acceptors.
ENOUGH = 12

Reload = Callable[[Showcase], None]


@pytest.fixture(scope="module")
def running() -> Iterator[Showcase]:
    with running_showcase() as show:
        yield show


@pytest.fixture
def show(running: Showcase) -> Iterator[Showcase]:
    """The instance with its first configuration and its first files."""
    directory = running.symphony.directory
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".pem", ".key")}
    yield running
    for name, content in files.items():
        running.symphony.write(name, content)
    running.symphony.config_file.write_text(running.config)
    reload_by_command(running)


def reload_by_command(show: Showcase) -> None:
    done = show.symphony.command("reload")
    assert done.returncode == 0, done.stderr
    check_served(show, int(done.stdout.split()[1].rstrip(":")))


def reload_by_signal(show: Showcase) -> None:
    before = len(show.symphony.logged("reloaded"))
    os.kill(show.symphony.pid, signal.SIGHUP)
    wait_until(lambda: len(show.symphony.logged("reloaded")) > before, "the reload is logged")
    check_served(show, show.symphony.logged("reloaded")[-1]["version"])


def check_served(show: Showcase, version: int) -> None:
    """A reload is over when every acceptor serves what it brought."""
    assert [show.symphony.acceptor(name).version for name in ACCEPTORS] == [version] * len(ACCEPTORS)


def reload_with_errors(show: Showcase, config: str) -> subprocess.CompletedProcess[str]:
    """Reload a file with something wrong in it; all then serve what is right in it."""
    show.symphony.config_file.write_text(config)
    done = show.symphony.command("reload")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    check_served(show, show.symphony.status().config_version)
    return done


def added_route(sni: str, service: str, show: Showcase) -> str:
    """A route under the wildcard's certificate that leads to the service of another route."""
    return (
        f'\n[[routes]]\nsni = "{sni}"\n'
        'cert = { cert_chain_file = "wildcard.pem", private_key_file = "wildcard.key" }\n'
        f"upstreams = [{show.upstream_of(service)}]\n"
    )


def services_at(target: Target, times: int = ENOUGH) -> set[str]:
    return {call("python", target).service for _ in range(times)}


def rotate(show: Showcase, route: str) -> Expected:
    """Put another authority's certificate in the place of a route's; return what a call must find from then on."""
    expected = show.expected[route]
    authority = make_authority("next authority")
    made = make_certificate([expected.target.name], authority=authority)
    show.symphony.write(f"{route}.pem", made.chain_pem)
    show.symphony.write(f"{route}.key", made.key_pem)
    trust = show.symphony.write("next-authority.pem", authority.cert_pem)
    leaf = ssl.PEM_cert_to_DER_cert(made.chain_pem.decode())
    return replace(expected, target=replace(expected.target, trust=str(trust)), certificate=leaf)


def check_all(show: Showcase) -> None:
    """Every route of the first configuration does what it did."""
    for expected in show.expected.values():
        assert expected.holds(call("python", expected.target)), expected.route


@pytest.mark.parametrize("reload", [reload_by_command, reload_by_signal])
def test_a_route_is_added_changed_and_removed(show: Showcase, reload: Reload) -> None:
    target = replace(show.expected["wildcard"].target, name="special.wild.example.test")
    assert services_at(target) == {"wildcard"}
    file = show.symphony.config_file

    file.write_text(show.config + added_route(target.name, "exact", show))
    reload(show)
    assert services_at(target) == {"exact"}
    assert services_at(show.expected["wildcard"].target) == {"wildcard"}

    with connect(target) as first:
        assert ask(first) == "exact"
        file.write_text(show.config + added_route(target.name, "default", show))
        reload(show)
        assert services_at(target) == {"default"}
        with connect(target) as second:
            file.write_text(show.config)
            reload(show)
            assert services_at(target) == {"wildcard"}
            # Open connections keep what they have, though their route has changed and is gone by now.
            assert (ask(first), ask(second)) == ("exact", "default")
    check_all(show)


@pytest.mark.parametrize("reload", [reload_by_command, reload_by_signal])
def test_a_certificate_that_was_replaced_on_disk(show: Showcase, reload: Reload) -> None:
    old = show.expected["exact"]
    with connect(old.target) as held:
        new = rotate(show, "exact")
        assert old.holds(call("python", old.target)), "nothing changes before the reload"
        reload(show)
        for _ in range(ENOUGH):
            assert new.holds(call("python", new.target))
        with pytest.raises(CallFailed, match="CERTIFICATE_VERIFY_FAILED"):
            call("python", old.target)
        assert ask(held) == "exact"
        assert held.getpeercert(binary_form=True) == old.certificate


def test_a_broken_route_stays_as_it_was_and_the_rest_is_applied(show: Showcase) -> None:
    version = show.symphony.status().config_version
    rotate(show, "exact")
    show.symphony.write("exact.key", show.symphony.directory.joinpath("pool.key").read_bytes())
    special = replace(show.expected["wildcard"].target, name="special.wild.example.test")
    done = reload_with_errors(show, show.config + added_route(special.name, "pool", show))
    assert f"{show.symphony.config_file}: routes[0].cert" in done.stderr
    assert "kept at their last good version: exact.example.test" in done.stderr
    assert show.symphony.status().config_version == version + 1
    assert services_at(special) == {"pool-1", "pool-2"}
    for _ in range(ENOUGH):
        check_all(show)


def test_a_file_with_a_syntax_error_changes_nothing(show: Showcase) -> None:
    version = show.symphony.status().config_version
    done = reload_with_errors(show, show.config.replace("[[routes]]", "[[routes]", 1))
    assert f"{show.symphony.config_file}: line " in done.stderr
    assert show.symphony.status().config_version == version
    check_all(show)

    os.kill(show.symphony.pid, signal.SIGHUP)
    wait_until(lambda: bool(show.symphony.logged("configuration problem")), "it is logged")
    assert show.symphony.status().config_version == version
    check_all(show)


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_outlive_a_reload_but_not_another_certificate(
    show: Showcase, version: ssl.TLSVersion
) -> None:
    expected = show.expected["exact"]
    context = client_context(expected.target)
    context.minimum_version = context.maximum_version = version
    with connect(expected.target, context) as connection:
        assert ask(connection) == "exact"
        session = connection.session
        assert session is not None
    show.symphony.config_file.write_text(show.config + added_route("new.wild.example.test", "exact", show))
    reload_by_command(show)
    assert resumed(show, context, session) == {True}

    new = rotate(show, "exact")
    context.load_verify_locations(new.target.trust)
    reload_by_command(show)
    assert resumed(show, context, session) == {False}


def resumed(show: Showcase, context: ssl.SSLContext, session: ssl.SSLSession) -> set[bool | None]:
    """Whether connections that offer `session` resume it, over both acceptors."""
    found: set[bool | None] = set()
    answered_by: set[str | None] = set()
    for _ in range(100):
        with connect(show.expected["exact"].target, context, session) as connection:
            assert ask(connection) == "exact"
            answered_by.add(show.symphony.acceptor_of(connection))
            found.add(connection.session_reused)
        if len(answered_by) == len(ACCEPTORS):
            return found
    raise AssertionError(f"100 connections to {answered_by} only")


def test_calls_go_on_through_many_reloads(show: Showcase) -> None:
    answers: list[Answer] = []
    for number in range(10):
        text = added_route(f"n{number}.wild.example.test", "exact", show)
        show.symphony.config_file.write_text(show.config + text)
        os.kill(show.symphony.pid, signal.SIGHUP)
        for expected in show.expected.values():
            answer = call("python", expected.target)
            assert expected.holds(answer)
            answers.append(answer)
    assert len(answers) == 10 * len(show.expected)
    target = replace(show.expected["wildcard"].target, name="n9.wild.example.test")
    wait_until(lambda: services_at(target, 1) == {"exact"}, "the last one is served")


def test_the_last_of_many_signals_is_never_lost(show: Showcase) -> None:
    """A file that changes while a reload is under way is read again, however the two fall together."""
    target = show.expected["wildcard"].target
    for number in range(30):
        name = f"n{number}.wild.example.test"
        show.symphony.config_file.write_text(show.config + added_route(name, "exact", show))
        os.kill(show.symphony.pid, signal.SIGHUP)
        if number % 3 == 2:
            wait_until(
                lambda name=name: services_at(replace(target, name=name), 1) == {"exact"}, name, limit_s=5
            )
