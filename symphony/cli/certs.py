"""``symphony certs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, runtime_dir_option

if TYPE_CHECKING:
    from symphony.routing.certificates import ServedCertificate

_ANSWER_WITHIN_S = 10.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@config_option
@runtime_dir_option
def command(as_json: bool, config_file: str | None, runtime_dir: str | None) -> None:
    """Show every certificate: names, issuer, key type, days left, routes.

    Of the running instance, which may still serve the last good one; with -c, of that file, running or not.
    """
    import time

    if config_file is not None and runtime_dir is None:
        certificates = _of_file(config_file)
    else:
        certificates = _of_instance(runtime_dir, config_file)
    now = time.time()
    if as_json:
        from symphony.cli.certs_page import as_entry
        from symphony.cli.output import print_json

        entries = [as_entry(each, now) for each in certificates]
        print_json(entries)
    else:
        from symphony.cli.certs_page import print_certificates

        print_certificates(certificates, now)


def _of_file(config_file: str) -> tuple[ServedCertificate, ...]:
    from symphony.api.certificates import configured_certificates
    from symphony.config.problem import ConfigError
    from symphony.host.hardening import forbid_dumps

    forbid_dumps()
    try:
        return configured_certificates(config_file)
    except ConfigError as error:
        leave(Exit.CONFIGURATION, str(error))


def _of_instance(runtime_dir: str | None, config_file: str | None) -> tuple[ServedCertificate, ...]:
    import asyncio

    from symphony.api.certificates import ask_certificates
    from symphony.cli.instance import find_instance
    from symphony.mailbox.client import MailboxError

    instance = find_instance(runtime_dir, config_file)
    try:
        return asyncio.run(ask_certificates(instance.runtime_dir, _ANSWER_WITHIN_S))
    except MailboxError as error:
        leave(Exit.FAILURE, f"the route registry of process {instance.pid} does not answer: {error}")
