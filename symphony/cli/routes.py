"""``symphony routes``."""

from __future__ import annotations

import asyncio

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option
from symphony.cli.wording import route_shown


@click.command()
@click.argument("name", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@config_option
@runtime_dir_option
def command(name: str, as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """List the routes that are served: connections, bytes, times, and how their upstreams fare.

    With NAME, only those that have it in their name; the default route is called "default".
    """
    from symphony.api.routes import gather_routes
    from symphony.cli.instance import find_instance

    instance = find_instance(runtime_dir, config_file)
    routes, silent = asyncio.run(gather_routes(instance.runtime_dir))
    shown = [route for route in routes if name in route_shown(route.route)]
    if as_json:
        from symphony.cli.output import print_json

        print_json(shown)
    else:
        from symphony.cli.routes_page import print_routes

        print_routes(shown)
    if not routes:
        leave(Exit.FAILURE, f"nobody told the routes; no answer from {', '.join(silent) or 'any acceptor'}")
