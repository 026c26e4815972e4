"""``symphony run``."""

from __future__ import annotations

import os

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option
from symphony.cli.places import default_runtime_dir


@click.command()
@config_option
@click.option("--demo", is_flag=True, help="Show the proxy at work: needs no configuration.")
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", help="Acceptors (default: the configuration's)."
)
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Reload by itself when a file of the configuration has changed (default: the configuration's).",
)
@click.option(
    "--core-dumps/--no-core-dumps",
    default=None,
    help="Allow core dumps and debuggers, for which keys are readable (default: the configuration's).",
)
@runtime_dir_option
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Log there and not to stderr; opened again on SIGUSR1, and within a second of being moved away.",
)
@click.option("--tied-to", type=int, hidden=True, help="A socket: say when ready there, and stop at its end.")
def command(
    config_file: str | None,
    demo: bool,
    workers: int | None,
    watch: bool | None,
    core_dumps: bool | None,
    runtime_dir: str | None,
    log_format: str,
    log_level: str,
    log_file: str | None,
    tied_to: int | None,
) -> None:
    """Start the proxy and stay in the foreground."""
    from symphony.api.serve import Launch, serve
    from symphony.config.problem import ConfigError
    from symphony.host.activation import UnusableSocket
    from symphony.mailbox.address import MailboxPathError, RuntimeDirError

    if demo and config_file is not None:
        raise click.UsageError("--demo writes its own configuration: give either --demo or -c FILE")
    launch = Launch(
        config_file=config_file,
        demo=demo,
        workers=workers,
        runtime_dir=os.path.abspath(runtime_dir) if runtime_dir is not None else None,
        default_runtime_dir=default_runtime_dir(),
        log_format="json" if log_format == "json" else "console",
        log_level=log_level,
        watch=watch,
        tied_to=tied_to,
        log_file=os.path.abspath(log_file) if log_file is not None else "",
        core_dumps=core_dumps,
    )
    try:
        clean = serve(launch, announce=click.echo)
    except ConfigError as error:
        leave(Exit.CONFIGURATION, str(error))
    except (RuntimeDirError, MailboxPathError, UnusableSocket, OSError) as error:
        leave(Exit.FAILURE, f"symphony cannot start: {error}")
    raise SystemExit(Exit.CLEAN if clean else Exit.FAILURE)
