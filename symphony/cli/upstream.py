"""``symphony upstream``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symphony.cli.options import config_option, json_option, runtime_dir_option
from symphony.cli.wording import route_shown

if TYPE_CHECKING:
    from symphony.config.model import UpstreamMode


@click.command()
@click.argument("route")
@click.argument("upstream")
@click.argument("mode", type=click.Choice(["drain", "ready", "down"]))
@json_option
@config_option
@runtime_dir_option
def command(
    route: str,
    upstream: str,
    mode: UpstreamMode,
    as_json: bool,
    config_file: str | None,
    runtime_dir: str | None,
) -> None:
    """Take an upstream out of a route, or back in, until Symphony itself is restarted.

    ROUTE is the route's sni, "default" for the default route or "*" for every route that has the upstream; UPSTREAM is
    named as "symphony status" shows it. With "drain" it gets no new connections, and those that are open go on; with
    "down" it is treated like one that fails: it is used only when all others are out. "ready" ends both.
    """
    from symphony.api.asking import acceptors_in
    from symphony.api.upstreams import set_upstream
    from symphony.cli.instance import find_instance, have_done, leave_if_behind

    instance = find_instance(runtime_dir, config_file)
    acceptors = acceptors_in(instance.runtime_dir)[::-1]
    done = have_done(instance, set_upstream(instance.runtime_dir, acceptors, route, upstream, mode))
    if as_json:
        from msgspec import structs

        from symphony.cli.output import print_json

        print_json({"upstream": upstream, **structs.asdict(done)})
    else:
        names = ", ".join(map(route_shown, done.routes))
        click.echo(f"{upstream} is set to {done.mode} in {names}: {done.remaining} connections open")
    leave_if_behind(done.behind)
