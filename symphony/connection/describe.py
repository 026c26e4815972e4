"""What an acceptor says of itself to those who watch."""

from __future__ import annotations

from collections.abc import Sequence

from symphony.connection.state import ListenerSeat
from symphony.host.descriptors import in_use, limit
from symphony.messages.acceptor import AcceptorDescription, ListenerTotals
from symphony.messages.totals import RecordsDescription
from symphony.observe.counters import ACCEPTED, ACTIVE, BYTES_DOWN, BYTES_UP, CounterPage
from symphony.observe.record_area import RecordArea
from symphony.observe.record_reader import read_records
from symphony.routing.plan import Plan
from symphony.routing.pool import UpstreamPool


def describe_acceptor(
    name: str,
    page: CounterPage,
    seats: Sequence[ListenerSeat],
    plan: Plan | None,
    *,
    contexts: int,
    adopted: tuple[str, ...],
    held: int,
) -> AcceptorDescription:
    """Describe the acceptor that counts in `page`; `plan` is what it serves by, None while it does not serve yet."""
    values = page.values
    return AcceptorDescription(
        name=name,
        version=plan.version if plan is not None else 0,
        routes=len(plan.routes) if plan is not None else 0,
        contexts=contexts,
        listeners=tuple(
            ListenerTotals(
                seat.id, seat.address, values[seat.slot], values[seat.slot + 1], page.blocked(seat.slot)
            )
            for seat in seats
        ),
        accepted=values[ACCEPTED],
        active=values[ACTIVE],
        bytes_up=values[BYTES_UP],
        bytes_down=values[BYTES_DOWN],
        errors=page.errors(),
        adopted=adopted,
        held=held,
        descriptors=in_use(),
        descriptor_limit=limit().soft,
    )


async def describe_records(
    plan: Plan,
    pool: UpstreamPool,
    pages: Sequence[CounterPage],
    closed_routes: RecordArea | None,
    closed_upstreams: RecordArea | None,
) -> RecordsDescription:
    """Read what all acceptors have counted for the routes of `plan` and their upstreams."""
    routes, handshake_times = await read_records(
        [page.routes for page in pages], closed_routes, ((route.name, route.number) for route in plan.routes)
    )
    numbered = {
        upstream.label: number
        for route in plan.routes
        for upstream, number in zip(route.upstreams, route.upstream_numbers, strict=False)
    }
    upstreams, connect_times = await read_records(
        [page.upstreams for page in pages], closed_upstreams, numbered.items()
    )
    return RecordsDescription(
        plan.version, routes, upstreams, handshake_times, connect_times, pool.impaired()
    )
