"""What the processes of a running instance have given up, and that keys stay where they belong."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from symphony.api.examine import examine
from symphony.config.problem import ConfigError
from symphony.tls.certificate_maker import make_certificate
from tests.support.acceptor import wait_until
from tests.support.symphony_process import SymphonyProcess, running_symphony

CONFIG = """
workers = 2
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "chain.pem", private_key_file = "key.pem" }
max_connections = 100
[[routes]]
sni = "a.test"
upstreams = [{ kind = "uds", path = "nobody.sock" }]
"""
MADE = make_certificate(["a.test"])
FILES = {"chain.pem": MADE.chain_pem, "key.pem": MADE.key_pem}


def family(symphony: SymphonyProcess) -> dict[str, int]:
    """Every process of the tree by name."""
    return {
        "supervisor": symphony.pid,
        **{actor.name: actor.pid for actor in symphony.status().actors if actor.pid is not None},
    }


def limits(pid: int, which: int) -> tuple[int, int]:
    return resource.prlimit(pid, which)


def has_no_new_privileges(pid: int) -> bool:
    return "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


def test_every_process_has_given_up_what_it_does_not_need() -> None:
    with running_symphony(CONFIG, files=FILES, arguments=["--no-core-dumps"]) as symphony:
        found = family(symphony)
        assert len(found) >= 6
        for name, pid in found.items():
            assert limits(pid, resource.RLIMIT_CORE)[0] == 0, name
            assert has_no_new_privileges(pid) or name == "supervisor", name
            soft, hard = limits(pid, resource.RLIMIT_NOFILE)
            assert soft == hard, name
        old = symphony.kill_child("acceptor-0").pid
        wait_until(lambda: symphony.child("acceptor-0").pid not in (old, 0), "it is back")
        assert has_no_new_privileges(symphony.wait_running("acceptor-0").pid)


@pytest.mark.skipif(
    not Path("/proc/sys/kernel/core_pattern").read_text().startswith("core"),
    reason="core dumps do not go to the working directory here",
)
@pytest.mark.parametrize("allowed", [False, True], ids=["by-default", "core_dumps"])
def test_a_crash_leaves_no_memory_behind(allowed: bool) -> None:
    """And does where it is asked for: else this would prove nothing."""
    argument = "--core-dumps" if allowed else "--no-core-dumps"
    symphony = SymphonyProcess(CONFIG, files=FILES, arguments=[argument])
    try:
        symphony.start()
        for name in ("acceptor-0", "route-registry"):
            pid = symphony.pid_of(name)
            # A soft limit above zero is what the kernel's own switch has to stand against.
            hard = limits(pid, resource.RLIMIT_CORE)[1]
            resource.prlimit(pid, resource.RLIMIT_CORE, (hard if 0 <= hard < 65536 else 65536, hard))
            os.kill(pid, signal.SIGSEGV)
            wait_until(lambda old=pid, name=name: symphony.pid_of(name) != old, "it is back")  # type: ignore[misc]
        cores = list(symphony.directory.glob("core*"))
        assert bool(cores) is allowed
    finally:
        symphony.clean_up()


def test_too_low_a_hard_limit_is_told() -> None:
    symphony = SymphonyProcess(CONFIG.replace("= 100\n", "= 2000000000\n"), files=FILES)
    try:
        symphony.start()
        (told,) = (line for line in symphony.logged("configuration problem") if line["place"] == "listeners")
        assert told["level"] == "warning"
        assert "needs 4000001024 descriptors" in told["problem"]
        assert "LimitNOFILE=" in told["problem"]
        symphony.config_file.write_text(CONFIG)
        done = symphony.command("reload")
        assert (done.returncode, done.stderr) == (0, "")
        symphony.config_file.write_text(CONFIG.replace("= 100\n", "= 2100000000\n"))
        done = symphony.command("reload")
        assert done.returncode == 0
        assert "needs 4200001024 descriptors" in done.stderr
    finally:
        symphony.clean_up()


def secrets(pem: bytes) -> list[str]:
    """The lines of a key, of which none may be shown anywhere."""
    return [line for line in pem.decode().splitlines() if not line.startswith("-----")]


def test_keys_are_shown_nowhere() -> None:
    """Not in the log, at its most talkative, and not by any command, whatever is wrong and wherever a key stands."""
    inline = make_certificate(["b.test"])
    other = make_certificate(["a.test"])
    key = inline.key_pem.decode()
    pair = f"cert_chain = '''{inline.chain_pem.decode()}'''\nprivate_key = '''{key}'''\n"
    upstreams = 'upstreams = [{ kind = "uds", path = "nobody.sock" }]'
    whole = CONFIG + f'[[routes]]\nsni = "b.test"\n{upstreams}\n[routes.cert]\n{pair}'
    broken = [
        whole.replace("private_key =", "private_kee ="),
        whole.replace("cert_chain =", "cert_chain_file ="),
        whole.replace("private_key =", "private_key_file ="),
        whole.replace(pair, f"cert_chain = '''{key}'''\nprivate_key = '''{key}'''\n"),
        whole.replace('"b.test"', f"'''{key}'''"),
        whole.replace('"127.0.0.1"', f"'''{key}'''"),
        whole.replace('"nobody.sock"', f"'''{key}'''"),
        whole.replace("port = 0", f"port = '''{key}'''"),
        whole.replace(pair, f"cert = '''{key}'''\n"),
        whole + key,
        whole.replace("'''-----BEGIN", "-----BEGIN"),
    ]
    shown = []
    with running_symphony(whole, files=FILES, arguments=["--log-level", "debug"]) as symphony:
        for text in broken:
            symphony.config_file.write_text(text)
            with pytest.raises(ConfigError) as refused:
                examine(str(symphony.config_file))
            shown.append(str(refused.value))
            tried = len(symphony.logged("configuration reloaded"))
            os.kill(symphony.pid, signal.SIGHUP)
            wait_until(
                lambda before=tried: len(symphony.logged("configuration reloaded")) > before,  # type: ignore[misc]
                "it was tried",
            )
        symphony.config_file.write_text(whole)
        symphony.write("key.pem", other.key_pem)
        shown.append(symphony.command("reload").stderr)
        assert "match" in shown[-1] or "belong" in shown[-1]
        shown.append(symphony.command("status").stdout)
        shown.append(symphony.command("status", "--json").stdout)
        for mailbox in symphony.runtime_dir.glob("*.sock"):
            for sent in (inline.key_pem, len(inline.key_pem).to_bytes(4, "big") + inline.key_pem):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(10)
                    sock.connect(str(mailbox))
                    sock.sendall(sent)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
        os.kill(symphony.pid_of("route-registry"), signal.SIGABRT)
        old = symphony.pid_of("acceptor-0")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: symphony.pid_of("acceptor-0") != old, "it is back")
        assert symphony.stop() == 0
        shown.append(symphony.log)
    assert len(shown[-1].splitlines()) > 30
    for secret in (*secrets(inline.key_pem), *secrets(MADE.key_pem), *secrets(other.key_pem)):
        for text in shown:
            assert secret not in text
