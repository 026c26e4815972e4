"""What is thrown at mailboxes: bytes that are none of theirs, and more good messages than anybody needs."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable

from symphony.mailbox.address import mailbox_path
from symphony.mailbox.framing import LENGTH, FrameDecoder
from tools.chaos.house import House
from tools.chaos.mailboxes import request_frame
from tools.chaos.records import StepResult

SENDERS = 20
REQUESTS = 4000
UNREAD_REQUESTS = 20_000
CUT_OFF_WITHIN_S = 8.0
_LARGEST = 1 << 28
_NOBODY = 65534


def flood(house: House, kind: str, victim: str, rng: random.Random, result: StepResult) -> None:
    """Throw `kind` at a mailbox. Who breaks the protocol must be cut off, and who keeps to it answered."""
    path = mailbox_path(str(house.runtime_dir), victim)
    if kind == "valid":
        _flood_valid(path, victim, result)
        return
    make: Callable[[], bytes]
    if kind == "garbage":
        # A length that says nothing yet would only be waited for: the first byte makes it too large.
        make = lambda: b"\xff" + rng.randbytes(rng.randrange(4, 60_000))  # noqa: E731
    elif kind == "oversize":
        make = lambda: LENGTH.pack(rng.randrange(_LARGEST, 1 << 32)) + rng.randbytes(1000)  # noqa: E731
    else:
        make = lambda: request_frame(victim, version=rng.choice([0, 2, 3, 255, 1 << 40]))  # noqa: E731
    cut_off = 0
    for _ in range(SENDERS):
        with _connect(path) as sock:
            cut_off += _is_cut_off(sock, make())
    result.figures["bad senders"] = SENDERS
    result.figures["of these cut off"] = cut_off
    if kind == "garbage" and os.geteuid() == 0:
        result.figures["bad senders of another user"] = 1
        if not _is_turned_away(path, make()):
            result.problems.append("a sender of another user was not turned away")
    if cut_off < SENDERS:
        result.problems.append(f"{SENDERS - cut_off} senders of {kind} were not cut off")


def _is_turned_away(path: str, data: bytes) -> bool:
    """Whether a process of another user can send nothing, or is cut off for it."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            with _connect(path) as sock:
                code = 0 if _is_cut_off(sock, data) else 1
        except OSError:
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(CUT_OFF_WITHIN_S)
    sock.connect(path)
    return sock


def _is_cut_off(sock: socket.socket, data: bytes) -> bool:
    try:
        sock.sendall(data)
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _flood_valid(path: str, victim: str, result: StepResult) -> None:
    """One sender that reads its answers, and one that never does, which has to be dropped or made to wait."""
    answered = 0
    with _connect(path) as reader, _connect(path) as deaf:
        deaf.setblocking(False)
        pushed = _push(deaf, request_frame(victim) * 100, UNREAD_REQUESTS // 100)
        decoder = FrameDecoder(1 << 26)
        request = request_frame(victim)
        for _ in range(REQUESTS // 100):
            reader.sendall(request * 100)
            due = 100
            while due > 0:
                data = reader.recv(1 << 18)
                if not data:
                    break
                due -= len(decoder.feed(data))
            answered += 100 - due
    result.figures["good requests"] = REQUESTS
    result.figures["of these answered"] = answered
    result.figures["requests with unread answers"] = pushed * 100
    if answered < REQUESTS:
        result.problems.append(f"only {answered} of {REQUESTS} good requests were answered")


def _push(sock: socket.socket, data: bytes, times: int) -> int:
    """Send `data` up to `times` times, as long as the other side takes it; return how often it did."""
    for done in range(times):
        left = memoryview(data)
        deadline = time.monotonic() + 0.5
        while left:
            try:
                left = left[sock.send(left) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return done
                time.sleep(0.01)
            except OSError:
                return done
    return times
