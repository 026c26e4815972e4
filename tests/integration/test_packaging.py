"""The distribution: built from the checkout and from its own source, and run in a fresh environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LIMIT_S = 90

pytest.importorskip("hatchling", reason="hatchling builds the distribution; it comes with the test extra")


ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, target: str, into: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=source)
    (made,) = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(CHECKOUT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``bin`` of an environment with nothing of Symphony but the wheel; what it depends on is lent to it."""
    home = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=home)
    lent = sysconfig.get_paths()["purelib"]
    (purelib,) = home.glob("lib/python*/site-packages")
    # Below its own packages, and without the checkout, which only this environment's .pth files would add.
    (purelib / "lent.pth").write_text(f"{lent}\n")
    yield home / "bin"
    shutil.rmtree(home)


def test_the_wheel_holds_the_program_and_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("symphony", "supervisor", "actors"):
        assert f"{package}/py.typed" in names
        ours = {
            str(path.relative_to(CHECKOUT))
            for path in (CHECKOUT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours == {name for name in names if name.startswith(f"{package}/")}
    others = {name.split("/")[0] for name in names} - {"symphony", "supervisor", "actors"}
    assert [name.rpartition(".")[2] for name in others] == ["dist-info"]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = build(CHECKOUT, "sdist", tmp_path)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # none before Python 3.11.4
        archive.extractall(tmp_path)
    assert {"README.md", "LICENSE", "Makefile", "ops/systemd/symphony.service", "tools/shows.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/"))]
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = build(unpacked, "wheel", tmp_path / "again")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_it_is_the_installed_one_that_runs(fresh: Path, tmp_path: Path) -> None:
    code = (
        "import symphony, supervisor, actors; print(symphony.__file__, supervisor.__file__, actors.__file__)"
    )
    places = run(fresh / "python", "-c", code, cwd=tmp_path).split()
    assert len(places) == 3
    assert all(place.startswith(str(fresh.parent)) for place in places), places
    said = run(fresh / "symphony", "version", cwd=tmp_path)
    from symphony.version import __version__

    assert said == f"symphony {__version__}\n"


def test_it_serves_from_there(fresh: Path, tmp_path: Path) -> None:
    runtime_dir = Path("/tmp") / f"sy-package-{os.getpid()}"
    log = tmp_path / "log"
    command = [fresh / "symphony", "run", "--demo", "--workers", "1", "--runtime-dir", runtime_dir]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while "Ready. Try" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        run(fresh / "symphony", "status", "--healthy", "--runtime-dir", runtime_dir, cwd=tmp_path)
        names = run(fresh / "symphony", "certs", "--runtime-dir", runtime_dir, cwd=tmp_path)
        assert "localhost" in names
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        shutil.rmtree(runtime_dir, ignore_errors=True)


USER_PROGRAM = '''
"""A program that uses the whole interface, as a type checker sees it."""

import asyncio
from pathlib import Path

from symphony import (
    ActorChanged,
    Blocked,
    BlockedReport,
    Certificate,
    Config,
    ConfigError,
    Listener,
    NotRunning,
    PenaltyBox,
    Protection,
    RateLimit,
    Released,
    ResolveRoute,
    Route,
    RouteRefused,
    Status,
    SubscriberTooSlow,
    Suspended,
    SymphonyProxy,
    TcpUpstream,
    Telemetry,
    UdsUpstream,
    UnknownConnection,
)


async def main() -> None:
    certificate = Certificate(cert_chain_file="cert.pem", private_key_file="key.pem")
    protection = Protection(rate_limit=RateLimit(connections_per_second=5), penalty_box=PenaltyBox())
    listener = Listener(port=8443, default_cert=certificate, protection=protection)
    route = Route(sni="", upstreams=(UdsUpstream(path="a.sock"),), listeners=("0.0.0.0:8443",))
    async with SymphonyProxy(Config(listeners=(listener,), routes=(route,))) as proxy:

        async def decide(connection: Suspended) -> None:
            try:
                await proxy.resolve_connection(connection.id, ResolveRoute(terminate_tls=True), must_exist=True)
                await proxy.resolve_connection(connection.id, route)
                await proxy.resolve_connection(connection.id, {"http2": False})
                held: bool = await proxy.resolve_connection(connection.id, None)
                print(held)
            except (ConfigError, RouteRefused, UnknownConnection, NotRunning) as error:
                print(error)

        def failed(error: Exception) -> None:
            print(error)

        proxy.on("suspended", decide)
        proxy.on("error", failed)
        proxy.on("ready", lambda _: None)
        proxy.on("blocked", print)
        proxy.on("suspended", failed)  # type: ignore[call-overload]
        proxy.on("nonsense", print)  # type: ignore[call-overload]
        version: int = await proxy.update_config(routes=[route], protection={8443: protection})
        version = await proxy.update_config(routes=Path("other.toml"))
        telemetry: Telemetry = await proxy.metrics()
        report: BlockedReport = await proxy.blocked_ips()
        status: Status = await proxy.status()
        print(version, telemetry.totals.accepted, report.sources, status.routes, TcpUpstream(host="a", port=1))
        try:
            async for event in proxy.events(limit=100):
                match event:
                    case Suspended() | Released():
                        print(event.id)
                    case Blocked():
                        print(event.ip)
                    case ActorChanged():
                        print(event.name)
        except SubscriberTooSlow:
            pass
    async with SymphonyProxy.attach("/run/symphony") as other:
        await other.wait_closed()


asyncio.run(main())
'''


def test_a_program_that_uses_it_passes_a_strict_type_checker(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(USER_PROGRAM)
    command = (sys.executable, "-m", "mypy", "--strict", "--warn-unreachable", "program.py")
    said = run(*command, "--python-executable", fresh / "python", "--cache-dir", tmp_path / "c", cwd=tmp_path)
    assert "Success: no issues found in 1 source file" in said
