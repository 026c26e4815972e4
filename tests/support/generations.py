"""Changes of a running showcase's listeners and acceptors, and the traffic that must not notice."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tests.support.calls import Target, connect
from tests.support.showcase import Expected, Showcase
from tests.support.traffic import LongConnection, SteadyCalls

CALLED = ("exact", "passed", "pool")


def listener(port: int, host: str = "127.0.0.1") -> str:
    return (
        f'[[listeners]]\nhost = "{host}"\nport = {port}\n'
        'default_cert = { cert_chain_file = "default.pem", private_key_file = "default.key" }\n'
    )


def configure(show: Showcase, *more: str, workers: int = 2) -> None:
    """Write the first configuration with `more` listeners and another number of workers."""
    text = show.config.replace("workers = 2", f"workers = {workers}")
    place = text.index("[[routes]]")
    show.symphony.config_file.write_text(text[:place] + "\n".join(more) + "\n" + text[place:])


@contextmanager
def steady(show: Showcase, routes: Sequence[str] = CALLED) -> Iterator[SteadyCalls]:
    """Calls all the while, of which none may fail, and a connection that is open all the while."""
    with SteadyCalls([show.expected[route] for route in routes]) as calls:
        calls.wait_answers(10)
        yield calls
        calls.wait_answers(20)
    assert calls.failures == []


@contextmanager
def talking(expected: Expected, *, to_the_end: bool = True) -> Iterator[LongConnection]:
    """A connection that asks all the while, and is answered all the while if `to_the_end`."""
    long = LongConnection(expected, connect(expected.target))
    long.start()
    try:
        long.wait_answers(1)
        yield long
        if to_the_end:
            long.wait_answers(1)
    finally:
        long.close()
    assert (long.error is None) == to_the_end


def at_port(show: Showcase, port: int, route: str = "exact") -> Target:
    return replace(show.expected[route].target, port=port)


def refuses(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
