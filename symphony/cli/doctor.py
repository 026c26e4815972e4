"""``symphony doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option

if TYPE_CHECKING:
    from symphony.host.doctor import Machine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@config_option
def command(as_json: bool, config_file: str | None) -> None:
    """Check the machine: limits, kernel, OpenSSL, clock; say what to change.

    With -c, held against what that configuration needs. Ends with 1 when something will not work.
    """
    from symphony.host.doctor import Health, Machine, examine

    machine = Machine() if config_file is None else _machine_for(config_file)
    findings = examine(machine)
    if as_json:
        from symphony.cli.output import print_json

        print_json(findings)
    else:
        from symphony.cli.doctor_page import print_findings

        print_findings(findings)
    if any(finding.health is Health.ERROR for finding in findings):
        raise SystemExit(Exit.FAILURE)


def _machine_for(config_file: str) -> Machine:
    from symphony.config.problem import ConfigError
    from symphony.config.resolve import load
    from symphony.host.doctor import Machine
    from symphony.host.hardening import forbid_dumps

    forbid_dumps()
    try:
        config, snapshot = load(config_file).require()
    except ConfigError as error:
        leave(Exit.CONFIGURATION, str(error))
    return Machine(listeners=snapshot.listeners, user=getattr(config, "user", "") or "")
