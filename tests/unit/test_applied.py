"""Waiting until acceptors serve what was published, and what a reload says of those that do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec import Struct

from symphony.api.applied import wait_applied
from symphony.api.names import CONTROL, REGISTRY
from symphony.cli.main import main
from symphony.config.problem import Problem
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.client import MailboxError
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.control import ControlRequest, ReloadService, ServiceReloaded
from symphony.messages.registry import AppliedBy, AwaitApplied, ListenersKept, RegistryRequest
from tests.support.loops import LIMIT_S, eventually, on_both_loops
from tests.support.mailbox import live_runtime_dir

NAMES = ("acceptor-0", "acceptor-1")


@pytest.fixture
def runtime_dir() -> Iterator[str]:
    with live_runtime_dir() as path:
        yield path


@asynccontextmanager
async def mailbox(
    runtime_dir: str, name: str, requests: Any, answer: Callable[[Any], Struct | Awaitable[Struct | None]]
) -> AsyncIterator[MailboxServer]:
    def handler(message: Any, sender: Sender) -> Struct | Awaitable[Struct | None]:
        return answer(message)

    server = MailboxServer(mailbox_path(runtime_dir, name), requests, handler)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@on_both_loops
async def test_a_registry_that_dies_is_asked_again(runtime_dir: str) -> None:
    asked: list[AwaitApplied] = []

    async def never(message: AwaitApplied) -> Struct:
        asked.append(message)
        await asyncio.sleep(LIMIT_S)
        raise AssertionError("it was to be closed before")

    async with mailbox(runtime_dir, REGISTRY, RegistryRequest, never):
        waiting = asyncio.ensure_future(wait_applied(runtime_dir, NAMES, 7, LIMIT_S))
        await eventually(lambda: bool(asked), "the question")
    assert not waiting.done()
    async with mailbox(
        runtime_dir, REGISTRY, RegistryRequest, lambda message: AppliedBy(message.acceptors[1:])
    ):
        assert await waiting == ("acceptor-1",)
    assert (asked[0].version, asked[0].acceptors) == (7, NAMES)
    assert 0 < asked[0].within_s <= LIMIT_S


@on_both_loops
async def test_without_a_registry_nobody_is_known_to_serve(runtime_dir: str) -> None:
    assert await wait_applied(runtime_dir, NAMES, 1, 0.1) == NAMES


@on_both_loops
async def test_an_answer_of_another_kind(runtime_dir: str) -> None:
    async with mailbox(runtime_dir, REGISTRY, RegistryRequest, lambda message: ListenersKept(1)):
        with pytest.raises(MailboxError, match="of another kind"):
            await wait_applied(runtime_dir, NAMES, 1, LIMIT_S)


async def reload(runtime_dir: str, done: ServiceReloaded, *options: str) -> Result:
    """What ``symphony reload`` makes of an answer."""

    def answer(message: Any) -> Struct:
        assert message == ReloadService()
        return done

    async with mailbox(runtime_dir, CONTROL, ControlRequest, answer):
        arguments = ["reload", "--runtime-dir", runtime_dir, *options]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_the_command_names_who_is_behind(runtime_dir: str) -> None:
    done = ServiceReloaded("a.toml", 4, True, (), (), behind=("acceptor-1",))
    result = await reload(runtime_dir, done)
    assert result.exit_code == 1
    assert "configuration 4: in force\n" in result.output
    assert "not yet taken up by acceptor-1; " in result.output
    result = await reload(runtime_dir, done, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["behind"] == ["acceptor-1"]


async def test_an_error_in_the_configuration_comes_before_who_is_behind(runtime_dir: str) -> None:
    problem = Problem("routes[0].sni", "is wrong")
    done = ServiceReloaded("a.toml", 4, True, (), (problem,), behind=("acceptor-1",))
    assert (await reload(runtime_dir, done)).exit_code == 2
