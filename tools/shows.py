"""What the proxy promises, shown at full size on this machine: ``python tools/shows.py``.

Starts the real command, real services and real clients (curl, ``openssl s_client``, Python's ssl module), prints what
happened, and exits with 1 when a promise was not kept. Everything is on loopback and is gone afterwards.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.bulk import bulk_line
from tests.support.calls import CLIENTS, missing_clients
from tests.support.campaign import run_campaign
from tests.support.resumption import Resumptions, reconnect, take_sessions_along
from tests.support.showcase import running_showcase
from tests.support.symphony_process import SymphonyProcess
from tools.changes.show import missing_programs, show_changes
from tools.promises import NotKept, Show

ACCEPTORS = ("acceptor-0", "acceptor-1")
KILL_EVERY = 5
FLAT_WITHIN_KIB = 5 * 1024
MOST_RUNS = 40


def show_demo() -> Iterator[str]:
    """The demo prints a curl line, and the line works."""
    symphony = SymphonyProcess(None, arguments=["--demo"])
    try:
        symphony.start()
        found = re.search(r"curl --cacert \S+ https://\S+", symphony.log)
        if found is None:
            raise NotKept(f"no curl line in:\n{symphony.log}")
        yield f"$ {found[0]}"
        done = subprocess.run(  # noqa: S603 - the line that the user is told to run
            [*found[0].split(), "--silent", "--show-error", "--max-time", "10"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if done.returncode or "Symphony works" not in done.stdout:
            raise NotKept(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        yield from done.stdout.splitlines()
        code = symphony.stop()
        yield f"stopped with exit code {code}"
        if code:
            raise NotKept("the stop was not clean")
    finally:
        symphony.clean_up()


def show_calls(calls: int) -> Iterator[str]:
    """Every call reaches the right service with the right certificate, whatever is killed in between."""
    with running_showcase(workers=len(ACCEPTORS)) as show:
        campaign = run_campaign(show, calls, KILL_EVERY)
        yield "by client: " + _list(campaign.by_client)
        yield "by route: " + _list(campaign.by_route)
        yield "answered by: " + _list(campaign.by_service)
        yield "killed in between: " + _list(campaign.kills)
        yield f"right: {campaign.right} of {campaign.calls}"
        yield f"slowest call right after a kill: {campaign.slowest_s * 1000:.0f} ms"
        for name in campaign.kills:
            show.symphony.wait_running(name)
        restarts = {found.name: found.restarts for found in show.symphony.status().actors}
        yield "restarts by `symphony status`: " + _list(restarts)
    if campaign.failures:
        raise NotKept("\n".join(campaign.failures))
    if Counter(restarts) != campaign.kills:
        raise NotKept("not every kill is counted as one restart")


def show_bulk(mib: int) -> Iterator[str]:
    """Bulk arrives bit for bit, with the acceptor's memory flat although the reader is slow."""
    missed = []
    with bulk_line() as line:
        for mode in ("terminated", "passthrough"):
            for way in ("download", "upload"):
                moved = line.move(mode, upload=way == "upload", size=mib << 20)
                yield (
                    f"{mode} {way}: {moved.received / 2**20:g} MiB in {moved.seconds:.1f} s; "
                    f"sent before the reader began: {moved.held_back / 2**20:.1f} MiB; private memory "
                    f"{moved.before_kib / 1024:.1f} MiB before, {moved.peak_kib / 1024:.1f} MiB at most; "
                    f"sha256 {moved.received_digest[:16]}... {'equal' if moved.is_whole else 'DIFFERENT'}"
                )
                if not moved.is_whole:
                    missed.append(
                        f"{mode} {way}: sent {moved.sent} {moved.sent_digest}, came {moved.received}"
                    )
                if moved.grown_kib > FLAT_WITHIN_KIB:
                    missed.append(f"{mode} {way}: memory grew by {moved.grown_kib} KiB")
    if missed:
        raise NotKept("\n".join(missed))


def show_sessions() -> Iterator[str]:
    """Sessions are resumed whichever acceptor answers."""
    with running_showcase(workers=len(ACCEPTORS)) as show:
        target = show.expected["exact"].target
        by_12 = reconnect(show.symphony, target, ACCEPTORS, MOST_RUNS)
        yield (
            f"-reconnect, TLS 1.2: {by_12.resumed} sessions reused, {len(by_12.failures)} runs with a miss; "
            f"answered by {_list(by_12.by_acceptor)}"
        )
        by_13 = take_sessions_along(show.symphony, target, ACCEPTORS, MOST_RUNS)
        yield (
            f"-sess_out then -sess_in, TLS 1.3: {by_13.resumed} sessions reused, {len(by_13.failures)} missed"
        )
        for (giver, taker), times in sorted(by_13.pairs.items()):
            yield f"  given by {giver}, resumed by {taker}: {times}"
    _check(by_12, len(by_12.by_acceptor) == len(ACCEPTORS) and all(by_12.by_acceptor.values()))
    _check(by_13, len(by_13.pairs) == len(ACCEPTORS) ** 2)


def _check(found: Resumptions, complete: bool) -> None:
    if found.failures:
        raise NotKept("\n".join(found.failures))
    if not complete:
        raise NotKept(f"not every acceptor took part: {found}")


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items()))


def main() -> int:
    """Run all shows; return the exit code."""
    parser = argparse.ArgumentParser(description="Show what the proxy promises, at full size.")
    parser.add_argument("--calls", type=int, default=200, help="calls with kills in between (default: 200)")
    parser.add_argument("--mib", type=int, default=1024, help="MiB of each bulk transfer (default: 1024)")
    parser.add_argument("--reloads", type=int, default=1000, help="reloads under load (default: 1000)")
    parser.add_argument("--upgrades", type=int, default=20, help="upgrades under load (default: 20)")
    parser.add_argument(
        "--only", choices=["demo", "calls", "bulk", "sessions", "changes"], help="this show alone"
    )
    chosen = parser.parse_args()
    if missing := [*missing_clients(), *missing_programs()]:
        print(f"not installed: {', '.join(missing)}; tools/install-test-packages installs them")
        return 1
    shows: dict[str, tuple[str, Show]] = {
        "demo": ("the demo's curl line", show_demo),
        "calls": (f"{chosen.calls} calls by {', '.join(CLIENTS)}", lambda: show_calls(chosen.calls)),
        "bulk": (f"{chosen.mib} MiB to a slow reader", lambda: show_bulk(chosen.mib)),
        "sessions": ("session resumption", show_sessions),
        "changes": (
            f"{chosen.reloads} reloads and {chosen.upgrades} upgrades under wrk",
            lambda: show_changes(chosen.reloads, chosen.upgrades),
        ),
    }
    wanted = [show for name, show in shows.items() if chosen.only in (None, name)]
    return 1 if [title for title, show in wanted if not _run(title, show)] else 0


def _run(title: str, show: Show) -> bool:
    print(f"== {title}", flush=True)
    began = time.monotonic()
    try:
        for line in show():
            print(f"   {line}", flush=True)
    except (NotKept, AssertionError) as error:
        print(f"   NOT KEPT: {error}", flush=True)
        return False
    print(f"   kept ({time.monotonic() - began:.1f} s)", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
