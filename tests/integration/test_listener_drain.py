"""One listener is closed and opened again while the rest of the instance goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from symphony.api.status import ListenerStatus
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import ask as ask_mailbox
from symphony.messages.control import ControlReply, DescribeService
from tests.support.acceptor import wait_until
from tests.support.calls import Target, ask, call, connect, request, shake
from tests.support.draining import draining
from tests.support.generations import at_port, configure, listener, refuses, steady, talking
from tests.support.ports import lasting_port
from tests.support.showcase import Showcase, running_showcase

HTTP = '[[listeners]]\nhost = "127.0.0.1"\nport = {port}\nmode = "http"\n'
GET = b"GET / HTTP/1.1\r\nhost: exact.example.test\r\n\r\n"


class Site:
    """A showcase with a second TLS listener and one for plain HTTP."""

    def __init__(self, show: Showcase) -> None:
        self.show = show
        self.symphony = show.symphony
        self.port, self.plain = lasting_port(), lasting_port()
        self.configure()
        self.do("reload")
        self.name = f"127.0.0.1:{self.port}"

    def configure(self, workers: int = 2) -> None:
        configure(self.show, listener(self.port), HTTP.format(port=self.plain), workers=workers)

    @property
    def target(self) -> Target:
        return at_port(self.show, self.port)

    def do(self, *arguments: str) -> str:
        done = self.symphony.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, port: int = 0) -> ListenerStatus:
        address = f"127.0.0.1:{port or self.port}"
        return next(found for found in self.symphony.status().listeners if found.address == address)

    def close(self) -> None:
        """Drain the listener, which has no connections, to the end."""
        assert self.do("drain", "--listener", self.name).splitlines()[-1] == "drained"

    def is_closed(self) -> bool:
        return all(refuses(self.port) for _ in range(8))

    def is_open(self) -> bool:
        return all(call("python", self.target).service == "exact" for _ in range(8))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_showcase() as show:
        yield Site(show)
        assert "Traceback" not in show.symphony.log


def test_its_connections_end_and_nobody_else_notices(site: Site) -> None:
    before = {found.name: found.pid for found in site.symphony.status().actors}
    with ExitStack() as stack:
        stack.enter_context(steady(site.show))
        stack.enter_context(talking(site.show.expected["exact"]))
        held = [stack.enter_context(connect(site.target)) for _ in range(3)]
        assert [ask(each) for each in held] == ["exact"] * 3
        drain = stack.enter_context(draining(site.symphony, "--listener", site.name))
        drain.wait_line("3 connections left")
        assert site.is_closed()
        assert (site.status().state, site.status().active) == ("draining", 3)
        (line,) = [text for text in site.do("status").splitlines() if text.startswith(site.name)]
        assert line.split()[1:3] == ["draining", "3"]
        assert [ask(each) for each in held] == ["exact"] * 3
        held[0].close()
        drain.wait_line("2 connections left")
        assert drain.process.poll() is None
        held[1].close()
        held[2].close()
        code, lines = drain.end()
        assert (code, lines[0], lines[-1]) == (0, "3 connections left", "drained")
        assert site.status().state == "drained"
        assert site.is_closed()
        assert site.do("drain", "--listener", site.name, "--resume") == f"{site.name} is open again\n"
        assert site.status().state == "open"
        assert site.is_open()
    assert {found.name: found.pid for found in site.symphony.status().actors} == before


def test_what_does_not_end_in_time_is_cut(site: Site) -> None:
    with connect(site.show.expected["exact"].target) as other, ExitStack() as stack:
        held = [stack.enter_context(connect(site.target)) for _ in range(3)]
        assert [ask(each) for each in held] == ["exact"] * 3
        arguments = ("--listener", site.name, "--timeout", "0.3", "--json")
        with draining(site.symphony, *arguments) as drain:
            code, lines = drain.end()
        said = [json.loads(line) for line in lines]
        assert code == 0
        assert said[0] == {"state": "draining", "remaining": 3}
        assert said[-1] == {"state": "drained", "remaining": 0, "cut": 3}
        for each in held:
            with pytest.raises(OSError):
                ask(each)
        assert ask(other) == "exact"
    site.do("drain", "--listener", site.name, "--resume")
    assert site.is_open()


def test_it_stays_closed_whatever_takes_the_place_of_what(site: Site) -> None:
    symphony = site.symphony
    site.close()
    workers = [found.name for found in symphony.status().actors if found.kind == "acceptor"]
    for name in workers:
        restarts = symphony.kill_child(name).restarts
        wait_until(lambda name=name, before=restarts: symphony.child(name).restarts > before, "it is back")
        symphony.wait_running(name)
    assert site.is_closed()
    site.configure(workers=3)
    assert "serving from now on" in site.do("reload")
    assert site.is_closed()
    assert site.status().state == "drained"
    with steady(site.show):
        site.do("upgrade")
        assert site.is_closed()
        assert site.status().state == "drained"
        site.configure(workers=4)
        site.do("reload")
        assert site.is_closed()
        site.do("drain", "--listener", site.name, "--resume")
    assert site.is_open()
    # One that was taken out of the configuration in between is a new one.
    site.close()
    configure(site.show)
    site.do("reload")
    site.configure()
    site.do("reload")
    assert site.is_open()


def test_who_waits_in_a_queue_is_served(site: Site) -> None:
    symphony = site.symphony
    pids = [
        found.pid
        for found in symphony.status().actors
        if found.kind == "acceptor" and found.state == "running" and found.pid is not None
    ]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [socket.create_connection(("127.0.0.1", site.port), timeout=10) for _ in range(8)]
        drain = draining(symphony, "--listener", site.name)
        with drain as command:
            wait_until(lambda: _state(site) in ("draining", "drained"), "it drains")
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for sock in waiting:
                with shake(sock, site.target) as connection:
                    assert request(connection, site.target.name) == "exact"
            assert command.end()[0] == 0
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    site.do("drain", "--listener", site.name, "--resume")


def _state(site: Site) -> str:
    """By the supervisor alone: stopped acceptors are not waited for."""
    path = mailbox_path(str(site.symphony.runtime_dir), "control")
    service = asyncio.run(ask_mailbox(path, DescribeService(), ControlReply, 5.0))
    return next(found.state for found in service.listeners if found.address == site.name)


def test_kept_connections_of_plain_http_are_ended_in_order(site: Site) -> None:
    name = f"127.0.0.1:{site.plain}"
    with socket.create_connection(("127.0.0.1", site.plain), timeout=10) as resting:
        resting.sendall(GET)
        assert resting.recv(4096).startswith(b"HTTP/1.1 301")
        assert site.do("drain", "--listener", name).splitlines()[-1] == "drained"
        assert resting.recv(4096) == b""
    assert refuses(site.plain)
    site.do("drain", "--listener", name, "--resume")
    with socket.create_connection(("127.0.0.1", site.plain), timeout=10) as client:
        for _ in range(2):  # it is kept as before
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 301")


def test_a_wait_ends_when_the_listener_is_opened_again(site: Site) -> None:
    with connect(site.target) as held, draining(site.symphony, "--listener", site.name) as drain:
        drain.wait_line("1 connection left")
        site.do("drain", "--listener", site.name, "--resume")
        code, lines = drain.end()
        assert (code, lines[-1]) == (1, f"{site.name} does not drain")
        assert ask(held) == "exact"
    # A time that was set is forgotten with it.
    with connect(site.target) as held:
        with draining(site.symphony, "--listener", site.name, "--timeout", "60") as drain:
            drain.wait_line("1 connection left")
        site.do("drain", "--listener", site.name, "--resume")
        assert ask(held) == "exact"


def test_a_port_that_somebody_else_has_taken_is_not_opened_again(site: Site) -> None:
    site.close()
    with socket.create_server(("127.0.0.1", site.port)):
        done = site.symphony.command("drain", "--listener", site.name, "--resume")
        assert done.returncode == 1
        assert done.stderr == f"{site.name} cannot be opened again: Address already in use\n"
        assert site.status().state == "drained"
    site.do("drain", "--listener", site.name, "--resume")
    assert site.is_open()


def test_what_is_not_there_is_refused(site: Site) -> None:
    first = f"127.0.0.1:{site.symphony.port()}"
    for arguments, why in (
        (("--listener", "nowhere:1"), f"there is no listener 'nowhere:1'; there is {first}, {site.name}, "),
        (("--listener", "nowhere:1", "--resume"), "there is no listener 'nowhere:1'; there is "),
        (("--listener", site.name, "--resume"), f"{site.name} does not drain"),
    ):
        done = site.symphony.command("drain", *arguments)
        assert done.returncode == 1 and done.stderr.startswith(why), done.stderr
    for wrong in (
        ("--resume",),
        ("--listener", site.name, "--resume", "--timeout", "1"),
        ("--timeout", "-1"),
    ):
        assert site.symphony.command("drain", *wrong).returncode == 2
    assert site.is_open()


def test_a_port_of_the_systems_choice_is_kept() -> None:
    with running_showcase() as show:
        name, target = f"127.0.0.1:{show.symphony.port()}", show.expected["exact"].target
        assert show.symphony.command("drain", "--listener", name).returncode == 0
        assert all(refuses(target.port) for _ in range(8))
        assert show.symphony.command("drain", "--listener", name, "--resume").returncode == 0
        assert all(call("python", replace(target)).service == "exact" for _ in range(8))
