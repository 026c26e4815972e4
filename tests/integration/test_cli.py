"""The ``symphony`` command as a user runs it: real processes, real sockets, exit codes and what is printed."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from symphony.api.status import UNRESPONSIVE
from symphony.tls.certificate_maker import make_certificate
from tests.support.acceptor import wait_until
from tests.support.symphony_process import SymphonyProcess, actor, run_symphony, running_symphony

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

LISTENER = """
[[listeners]]
host = "127.0.0.1"
port = {port}
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}
"""
ROUTE = """
[[routes]]
sni = "{sni}"
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = 9 }}]
"""


@pytest.fixture(scope="session")
def pair() -> dict[str, bytes]:
    made = make_certificate(["localhost"])
    return {"cert.pem": made.chain_pem, "key.pem": made.key_pem}


def config(*names: str, port: int = 0, top: str = "workers = 1\ndrain_timeout_ms = 5000\n") -> str:
    return top + LISTENER.format(port=port) + "".join(ROUTE.format(sni=name) for name in names)


@pytest.fixture
def directory(pair: dict[str, bytes]) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sy", dir="/tmp"))
    for name, content in pair.items():
        (path / name).write_bytes(content)
    yield path
    shutil.rmtree(path)


def test_check_of_a_good_file_counts_what_is_in_it(directory: Path) -> None:
    (directory / "symphony.toml").write_text(config("a.example", "*.b.example", ""))
    done = run_symphony("check", cwd=directory)
    assert (done.returncode, done.stdout) == (0, "3 routes, 1 listener, ok\n"), done.stderr


def test_check_and_run_show_all_findings_at_once(directory: Path) -> None:
    bad = directory / "bad.toml"
    bad.write_text(
        'workers = "two"\n'
        "drain_timeout = 5\n"
        + LISTENER.format(port=70000)
        + ROUTE.format(sni="same.example")
        + ROUTE.format(sni="SAME.example.")
        + 'cert = { cert_chain_file = "cert.pem", private_key_file = "missing.pem" }\n'
        + '[[routes]]\nsni = "empty.example"\nupstreams = []\n'
    )
    for arguments in (
        ["check", "-c", str(bad)],
        ["run", "-c", str(bad), "--runtime-dir", str(directory / "r")],
    ):
        done = run_symphony(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        lines = done.stderr.splitlines()
        assert all(line.startswith(f"{bad}: ") for line in lines), done.stderr
        for place in (
            "workers",
            "drain_timeout",
            "listeners[0].port",
            "routes[1].sni",
            "routes[1].cert.private_key_file",
            "routes[2].upstreams",
        ):
            assert any(line.startswith(f"{bad}: {place}: ") for line in lines), (place, done.stderr)


def test_the_environment_names_the_configuration(directory: Path) -> None:
    (directory / "other.toml").write_text(config("a.example"))
    environment = {"SYMPHONY_CONFIG": str(directory / "other.toml")}
    assert run_symphony("check", environment=environment).returncode == 0
    gone = run_symphony("check", environment={"SYMPHONY_CONFIG": str(directory / "gone.toml")})
    assert gone.returncode == 2
    assert "gone.toml" in gone.stderr


def test_status_lists_everything_that_runs(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example", "b.example", top="workers = 2\n"), files=pair) as symphony:
        done = symphony.command("status", "--json")
        assert done.returncode == 0, done.stderr
        status = json.loads(done.stdout)
        assert status["pid"] == symphony.pid
        assert status["config_version"] >= 1
        assert status["routes"] == 2
        assert status["uptime_s"] > 0
        assert [listener["address"] for listener in status["listeners"]] == [symphony.address()]
        assert status["connections"] == {
            "active": 0,
            "accepted": 0,
            "bytes_up": 0,
            "bytes_down": 0,
            "errors": {},
            "held": 0,
        }
        names = {found["name"] for found in status["actors"]}
        assert names == {"route-registry", "rate-limiter", "cpu-sampler", "acceptor-0", "acceptor-1"}
        for found in status["actors"]:
            assert found["state"] == "running"
            assert found["restarts"] == 0
            title = Path(f"/proc/{found['pid']}/cmdline").read_bytes().rstrip(b"\0 ").decode()
            assert title == f"symphony: {found['name']}"
        supervisor_title = Path(f"/proc/{symphony.pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
        assert supervisor_title == "symphony: supervisor"
        human = symphony.command("status")
        assert human.returncode == 0, human.stderr
        assert symphony.address() in human.stdout
        assert "acceptor-1" in human.stdout


def test_the_start_is_quick_and_the_supervisor_small(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        threads = len(os.listdir(f"/proc/{symphony.pid}/task"))
        assert threads == 1
        descriptors = os.listdir(f"/proc/{symphony.pid}/fd")
        assert len(descriptors) < 40


def test_an_actor_that_does_not_answer_is_shown_as_such(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        pid = symphony.pid_of("acceptor-0")
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        status = symphony.status()
        assert time.monotonic() - started < 10
        assert actor(status, "acceptor-0").state == UNRESPONSIVE
        assert actor(status, "route-registry").state == "running"
        # The supervisor takes it for hung and replaces it.
        back = symphony.wait_for(lambda now: actor(now, "acceptor-0").state == "running")
        assert actor(back, "acceptor-0").restarts == 1
        assert actor(back, "acceptor-0").pid != pid


def test_a_killed_actor_is_back_and_counted(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        for name in ("route-registry", "rate-limiter", "cpu-sampler", "acceptor-0"):
            os.kill(symphony.pid_of(name), signal.SIGKILL)
            status = symphony.wait_for(
                lambda now, name=name: actor(now, name).restarts == 1 and actor(now, name).state == "running"
            )
            assert status.routes == 1
        others = [found.restarts for found in symphony.status().actors]
        assert others == [1, 1, 1, 1]


def test_a_second_instance_is_refused_on_the_same_directory(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        second = symphony.command("run", "-c", str(symphony.config_file))
        assert second.returncode == 1
        assert str(symphony.pid) in second.stderr
        assert "Traceback" not in second.stderr
        assert symphony.command("status").returncode == 0


def test_a_port_that_is_taken_is_a_configuration_error(pair: dict[str, bytes], directory: Path) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        port = symphony.port()
        file = directory / "symphony.toml"
        file.write_text(config("a.example", port=port))
        second = run_symphony("run", "-c", str(file), "--runtime-dir", str(directory / "r"))
        assert second.returncode == 2
        assert f"{file}: listeners[0].port: port {port} on 127.0.0.1 is already taken" in second.stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        file.write_text(config("a.example", port=other.getsockname()[1]))
        third = run_symphony("run", "-c", str(file), "--runtime-dir", str(directory / "r"))
        assert third.returncode == 2
        assert "listeners[0].port" in third.stderr


def test_stop_ends_everything_and_leaves_no_key_behind(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        pids = [found.pid for found in symphony.status().actors]
        done = symphony.command("stop")
        assert (done.returncode, done.stderr) == (0, "")
        assert symphony.wait(5) == 0
        assert not any(pid is None or Path(f"/proc/{pid}").exists() for pid in pids)
        assert [path.name for path in symphony.runtime_dir.iterdir()] == ["lock"]
        again = symphony.command("status")
        assert (again.returncode, again.stderr) == (3, f"nothing runs in {symphony.runtime_dir}\n")


def test_reload_takes_what_is_good_and_says_what_is_not(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        before = symphony.status().config_version
        symphony.config_file.write_text(config("a.example", "b.example"))
        done = symphony.command("reload")
        assert done.returncode == 0, done.stderr
        assert "in force" in done.stdout
        after = symphony.wait_for(lambda status: status.routes == 2)
        assert after.config_version == before + 1

        assert "nothing changed" in symphony.command("reload").stdout

        # One broken route stays as it was, the rest is applied.
        broken = config("c.example", "a.example").replace(
            'sni = "a.example"\nupstreams', 'sni = "a.example"\nup'
        )
        symphony.config_file.write_text(broken)
        done = symphony.command("reload")
        assert done.returncode == 2
        assert f"{symphony.config_file}: routes[1].up" in done.stderr
        assert "a.example" in done.stderr
        symphony.wait_for(lambda status: status.config_version == before + 2)

        # A file that cannot be read at all changes nothing.
        symphony.config_file.write_text("[[listeners\n")
        done = symphony.command("reload")
        assert done.returncode == 2
        assert f"{symphony.config_file}: line 1" in done.stderr
        assert symphony.status().config_version == before + 2


def test_sighup_reloads(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        symphony.config_file.write_text(config("a.example", "b.example", "c.example"))
        os.kill(symphony.pid, signal.SIGHUP)
        symphony.wait_for(lambda status: status.routes == 3)
        symphony.config_file.write_text("nonsense")
        os.kill(symphony.pid, signal.SIGHUP)
        symphony.wait_for(lambda status: bool(symphony.logged("configuration problem")))
        assert symphony.status().routes == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly(pair: dict[str, bytes], number: signal.Signals) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        os.kill(symphony.pid, number)
        assert symphony.wait() == 0
        assert "Traceback" not in symphony.log


def test_open_connections_drain_and_a_second_signal_ends_at_once(pair: dict[str, bytes]) -> None:
    text = config("a.example", top="workers = 1\ndrain_timeout_ms = 60000\n")
    with running_symphony(text, files=pair) as symphony:
        # Connected and silent: it counts as open until the handshake's time limit.
        with socket.create_connection(("127.0.0.1", symphony.port()), timeout=10):
            symphony.wait_for(lambda status: status.connections.active == 1)
            os.kill(symphony.pid, signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                symphony.process.wait(1)
            os.kill(symphony.pid, signal.SIGINT)
            symphony.wait()  # long before its minute is over
        assert "Traceback" not in symphony.log


def test_stop_with_a_timeout_cuts_what_is_left(pair: dict[str, bytes]) -> None:
    text = config("a.example", top="workers = 1\ndrain_timeout_ms = 60000\n")
    with (
        running_symphony(text, files=pair) as symphony,
        socket.create_connection(("127.0.0.1", symphony.port()), timeout=10),
    ):
        symphony.wait_for(lambda status: status.connections.active == 1)
        done = symphony.command("stop", "--timeout", "0.5")
        assert done.returncode == 0
        assert "cut" in done.stderr
        symphony.wait(5)


def test_children_do_not_outlive_a_killed_supervisor(pair: dict[str, bytes]) -> None:
    with running_symphony(config("a.example"), files=pair) as symphony:
        pids = [found.pid for found in symphony.status().actors]
        os.kill(symphony.pid, signal.SIGKILL)
        symphony.wait()
        deadline = time.monotonic() + 10
        while any(pid is not None and Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline, "children outlive their supervisor"
            time.sleep(0.02)
        # The directory is free again, in spite of what was left in it.
        symphony.start()
        assert symphony.stop() == 0


@needs_curl
def test_the_printed_curl_line_of_the_demo_works() -> None:
    symphony = SymphonyProcess(None, arguments=["--demo", "--workers", "2"])
    try:
        symphony.start()
        # Printed once it is ready, and so perhaps not yet.
        wait_until(lambda: "Ctrl-C stops it" in symphony.log, "the text is printed")
        line = re.search(r"curl --cacert \S+ https://localhost:(\d+)/", symphony.log)
        assert line is not None, symphony.log
        assert int(line[1]) >= 8443
        command = [*line[0].split(), "--silent", "--show-error", "--fail", "--max-time", "10"]
        for _ in range(5):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 0, done.stderr + symphony.log
            assert "Symphony works" in done.stdout
        command[3] += "bytes/5000000"
        done_bytes = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert done_bytes.stdout == bytes(5_000_000)
        status = symphony.wait_for(lambda now: now.connections.active == 0)
        assert status.connections.accepted == 6
        assert status.connections.errors == {}
        assert symphony.stop() == 0
    finally:
        symphony.clean_up()


def test_every_process_may_open_what_the_hard_limit_allows(pair: dict[str, bytes]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with running_symphony(config("a.example"), files=pair) as symphony:
            acceptor = resource.prlimit(symphony.pid_of("acceptor-0"), resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert acceptor == (hard, hard)
