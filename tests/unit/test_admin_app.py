"""The admin interface's answers, without a server: who is asked, how often, and what is answered meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import structs

from symphony.observe import exposition
from symphony.observe.admin_app import AdminApp
from symphony.observe.telemetry import RouteState, Telemetry, UpstreamState
from tests.unit.test_telemetry import telemetry


class Client:
    """An application that answers from `told`, and how often it was gathered."""

    def __init__(self, told: Telemetry) -> None:
        self.told = told
        self.gathered = 0
        self._app = AdminApp(self._gather)

    async def _gather(self) -> Telemetry:
        self.gathered += 1
        return self.told

    async def get(self, path: str) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await self._app.asgi(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], body


async def test_a_crowd_costs_one_question_and_one_rendering(monkeypatch: Any) -> None:
    rendered = []
    monkeypatch.setattr(exposition, "render", lambda told: rendered.append(told) or b"text")
    client = Client(telemetry())
    answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
    assert set(answers) == {(200, b"text")}
    assert client.gathered == len(rendered) == 1


async def test_health_is_answered_while_very_many_routes_are_rendered() -> None:
    states = tuple(
        RouteState(f"r{number}.example", (UpstreamState("unix:/a", "up", "ready"),))
        for number in range(5_000)
    )
    client = Client(structs.replace(telemetry(), route_states=states))
    order: list[str] = []

    async def ask(path: str) -> None:
        status, _ = await client.get(path)
        order.append(f"{path} {status}")

    metrics = asyncio.create_task(ask("/metrics"))
    await asyncio.sleep(0)  # it has begun
    await ask("/health/live")
    assert order == ["/health/live 200"]
    await metrics
    assert order[-1] == "/metrics 200"


async def test_zeros_are_not_told_for_totals_that_nobody_knows() -> None:
    client = Client(structs.replace(telemetry(), counted=False))
    status, body = await client.get("/metrics")
    assert status == 503 and b"symphony_" not in body
    assert (await client.get("/health/live"))[0] == 200


async def test_health() -> None:
    client = Client(structs.replace(telemetry(), pid=0, applied={}))
    assert [(await client.get(path))[0] for path in ("/health/live", "/health/ready", "/nothing")] == [
        503,
        503,
        404,
    ]
