"""``symphony stop``."""

from __future__ import annotations

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, json_option, runtime_dir_option

# What the supervisor itself may take after a second request, which kills every child that is left.
_AT_ONCE_S = 10.0


@click.command()
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Cut connections that are still open after so long (default: the configuration's drain_timeout_ms).",
)
@json_option
@config_option
@runtime_dir_option
def command(timeout: float | None, as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Stop accepting, let open connections end, exit; return when that is done."""
    import os
    import select
    import signal

    from symphony.cli.instance import find_instance
    from symphony.mailbox.address import live_pid

    instance = find_instance(runtime_dir, config_file)
    gone = f"nothing runs in {instance.runtime_dir}"
    # A process descriptor names this process for good, whatever becomes of its number. The second look at the
    # lock makes sure that the number had not been given to another process before the descriptor was opened.
    try:
        descriptor = os.pidfd_open(instance.pid)
    except ProcessLookupError:
        leave(Exit.NOT_RUNNING, gone)
    if live_pid(instance.runtime_dir) != instance.pid:
        leave(Exit.NOT_RUNNING, gone)
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if watch.poll(None if timeout is None else timeout * 1000):
            _print(instance.pid, as_json, in_time=True)
            return
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        _print(instance.pid, as_json, in_time=True)
        return
    except PermissionError:
        leave(Exit.FAILURE, f"process {instance.pid} belongs to another user")
    if not watch.poll(_AT_ONCE_S * 1000):
        leave(Exit.FAILURE, f"process {instance.pid} does not end")
    click.echo(f"connections still open after {timeout:g} s were cut", err=True)
    _print(instance.pid, as_json, in_time=False)


def _print(pid: int, as_json: bool, *, in_time: bool) -> None:
    """`in_time`: no connection had to be cut because of this command's own time limit."""
    if as_json:
        from symphony.cli.output import print_json

        print_json({"state": "stopped", "pid": pid, "in_time": in_time})
