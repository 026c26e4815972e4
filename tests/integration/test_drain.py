"""What clients and another instance see of one that stops while connections are open."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.support.acceptor import wait_until
from tests.support.calls import ask, connect, request, shake
from tests.support.draining import draining
from tests.support.service_manager import NotifySocket
from tests.support.showcase import Showcase, running_showcase


def is_refused(show: Showcase) -> bool:
    try:
        socket.create_connection(("127.0.0.1", show.symphony.port()), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("route", ["exact", "passed"])
def test_open_connections_go_on_and_new_ones_are_refused(route: str) -> None:
    with running_showcase(drain_ms=90_000) as show:
        symphony, expected = show.symphony, show.expected[route]
        with connect(expected.target) as held:
            assert ask(held) == route
            os.kill(symphony.pid, signal.SIGTERM)
            wait_until(lambda: is_refused(show), "new connections are refused", limit_s=10)
            assert ask(held) == route
            # Nobody listens on the port any more, so it is another's to take.
            with (
                running_showcase(port=symphony.port()) as successor,
                connect(successor.expected[route].target) as new,
            ):
                assert ask(new) == route
                assert ask(held) == route
            assert request(held, expected.target.name) == route
        assert symphony.wait() == 0
        assert "Traceback" not in symphony.log
        assert symphony.logged("accept_paused") == []


def test_who_waits_in_a_queue_when_the_stop_comes_is_served() -> None:
    with running_showcase() as show:
        expected = show.expected["exact"]
        children = [show.symphony.wait_running(name).pid for name in ("acceptor-0", "acceptor-1")]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            socket.create_connection(("127.0.0.1", show.symphony.port()), timeout=10) for _ in range(8)
        ]
        os.kill(show.symphony.pid, signal.SIGTERM)
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        for sock in waiting:
            with shake(sock, expected.target) as connection:
                assert request(connection, expected.target.name) == "exact"
        assert show.symphony.wait() == 0


def ready(show: Showcase) -> tuple[int, dict[str, str]]:
    """What the admin interface says of the instance."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(show.symphony.runtime_dir / "admin-http.sock"))
        sock.sendall(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def with_admin(show: Showcase) -> None:
    """Start it anew, with an admin interface."""
    show.symphony.stop()
    show.symphony.config_file.write_text("admin = {}\n" + show.config)
    show.symphony.start()


def test_a_drain_shows_how_many_are_left_and_is_over_when_the_instance_is() -> None:
    with running_showcase() as show, ExitStack() as stack:
        with_admin(show)
        symphony = show.symphony
        target = replace(show.expected["exact"].target, port=symphony.port())
        assert ready(show) == (200, {"status": "ok"})
        held = [stack.enter_context(connect(target)) for _ in range(3)]
        assert [ask(each) for each in held] == ["exact"] * 3
        drain = stack.enter_context(draining(symphony))
        drain.wait_line("3 connections left")
        wait_until(lambda: is_refused(show), "new connections are refused", limit_s=10)
        wait_until(lambda: ready(show)[0] == 503, "it is not ready")
        assert ready(show)[1] == {"status": "unavailable", "reason": "draining: 3 connections left"}
        (listener,) = symphony.status().listeners
        assert (listener.state, listener.active) == ("draining", 3)
        for arguments in ((), ("--listener", listener.address)):
            done = symphony.command("drain", *arguments)
            assert (done.returncode, done.stderr) == (1, f"process {symphony.pid} stops already\n")
        held[0].close()
        drain.wait_line("2 connections left")
        assert [ask(each) for each in held[1:]] == ["exact"] * 2
        held[1].close()
        held[2].close()
        assert drain.end()[1][-1] == "drained"
        assert drain.process.returncode == 0
        assert symphony.wait(5) == 0, "it has ended before the command does"
        assert symphony.command("drain").returncode == 3
        assert "Traceback" not in symphony.log


@pytest.mark.parametrize(("timeout", "configured"), [("0.5", 20_000), ("2", 200), ("0", 20_000)])
def test_what_outlasts_the_time_of_a_drain_is_cut_and_counted(timeout: str, configured: int) -> None:
    with running_showcase() as show, ExitStack() as stack:
        symphony = show.symphony
        text = show.config.replace("drain_timeout_ms = 20000", f"drain_timeout_ms = {configured}")
        symphony.config_file.write_text(text)
        assert symphony.command("reload").returncode == 0
        held = [stack.enter_context(connect(show.expected["exact"].target)) for _ in range(3)]
        assert [ask(each) for each in held] == ["exact"] * 3
        with draining(symphony, "--timeout", timeout, "--json") as drain:
            if timeout == "2":
                # Longer than what is configured.
                wait_until(lambda: is_refused(show), "new connections are refused", limit_s=10)
                wait_until(lambda: symphony.status().listeners[0].state == "draining", "it drains")
                with pytest.raises(OSError):
                    while True:
                        assert ask(held[0]) == "exact"
            code, lines = drain.end()
        assert code == 0, lines
        assert json.loads(lines[0]) == {"state": "draining", "remaining": 3}
        assert json.loads(lines[-1]) == {"state": "drained", "remaining": 0, "cut": 3}
        symphony.wait()


def test_a_drain_takes_those_before_an_upgrade_along() -> None:
    with running_showcase() as show, ExitStack() as stack:
        symphony = show.symphony
        old = stack.enter_context(connect(show.expected["exact"].target))
        assert ask(old) == "exact"
        assert symphony.command("upgrade").returncode == 0
        new = stack.enter_context(connect(show.expected["exact"].target))
        assert ask(new) == "exact"
        symphony.wait_for(lambda status: [each.active for each in status.predecessors] == [1])
        drain = stack.enter_context(draining(symphony))
        drain.wait_line("2 connections left")
        new.close()
        drain.wait_line("1 connection left")
        assert ask(old) == "exact"
        old.close()
        assert drain.end()[1][-1] == "drained"
        wait_until(lambda: not symphony.processes(), "nothing is left")


def test_the_service_manager_sees_how_many_are_left() -> None:
    with (
        NotifySocket() as manager,
        running_showcase(NOTIFY_SOCKET=manager.address) as show,
        connect(show.expected["exact"].target) as held,
        draining(show.symphony) as drain,
    ):
        assert ask(held) == "exact"
        drain.wait_line("1 connection left")
        assert "STATUS" in manager.wait_for("STOPPING")
        assert manager.wait_for("STATUS")["STATUS"] == "Stopping: 1 connection open"
        held.close()
        assert drain.end()[0] == 0
