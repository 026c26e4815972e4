"""``symphony resolve``."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import click

from symphony.cli.exits import Exit, leave
from symphony.cli.options import config_option, json_option, runtime_dir_option

if TYPE_CHECKING:
    from symphony.config.snapshot import Identity


@click.command()
@click.argument("connection_id", metavar="ID")
@click.option(
    "--to",
    "targets",
    metavar="UPSTREAM",
    multiple=True,
    help="Forward it to tcp://HOST:PORT or unix:/PATH; more than one are tried by load.",
)
@click.option(
    "--release", is_flag=True, help="Forward it to the upstreams that the suspended route has itself."
)
@click.option("--reject", is_flag=True, help="Reset it.")
@click.option(
    "--terminate/--passthrough",
    default=None,
    help="Decrypt it, or pass its bytes through (default: as the route).",
)
@click.option(
    "--cert",
    "cert_file",
    type=click.Path(),
    metavar="FILE",
    help="Decrypt it with this certificate chain (PEM, leaf first).",
)
@click.option(
    "--key", "key_file", type=click.Path(), metavar="FILE", help="The certificate's private key (PEM)."
)
@click.option("--http2/--no-http2", default=None, help="Offer h2 by ALPN, or not (default: as the route).")
@json_option
@config_option
@runtime_dir_option
def command(
    connection_id: str,
    targets: tuple[str, ...],
    release: bool,
    reject: bool,
    terminate: bool | None,
    cert_file: str | None,
    key_file: str | None,
    http2: bool | None,
    as_json: bool,
    config_file: str | None,
    runtime_dir: str | None,
) -> None:
    """Decide about the held connection ID: forward it somewhere, or reset it."""
    if (bool(targets), release, reject).count(True) != 1:
        raise click.UsageError("say what becomes of it: --to UPSTREAM (once or more), --release or --reject")
    if (cert_file is None) != (key_file is None):
        raise click.UsageError("--cert and --key go together")
    if reject and (terminate is not None or cert_file is not None or http2 is not None):
        raise click.UsageError("--reject goes with nothing else")
    if terminate is False and (cert_file is not None or http2):
        raise click.UsageError(
            "--passthrough leaves the TLS handshake to the upstream: no --cert, no --http2"
        )

    from symphony.api.held import UNKNOWN, resolve_held
    from symphony.cli.instance import find_instance
    from symphony.config.upstream_text import UpstreamTextError, parse_upstream
    from symphony.mailbox.client import MailboxError, MailboxRefused
    from symphony.messages.held import HeldRoute

    route = None
    if not reject:
        try:
            upstreams = tuple(parse_upstream(target, os.getcwd()) for target in targets)
        except UpstreamTextError as error:
            leave(Exit.CONFIGURATION, f"--to: {error}")
        identity = None
        if cert_file is not None and key_file is not None:
            identity = _read_identity(cert_file, key_file)
            terminate = True
        route = HeldRoute(upstreams, terminate, identity, http2)
    instance = find_instance(runtime_dir, config_file)
    try:
        how = asyncio.run(resolve_held(instance.runtime_dir, connection_id, route))
    except MailboxRefused as error:
        leave(Exit.FAILURE, f"{connection_id} is held on: {error}")
    except MailboxError as error:
        leave(Exit.FAILURE, f"{connection_id} could not be resolved: {error}")
    if how == UNKNOWN:
        leave(Exit.FAILURE, f"{connection_id} is not held, or not any more")
    if as_json:
        from symphony.cli.output import print_json

        print_json({"id": connection_id, "how": how})
    else:
        click.echo(how)


def _read_identity(cert_file: str, key_file: str) -> Identity:
    """Read and check both files; ends the command with code 2 and what is wrong with which."""
    from datetime import UTC, datetime

    from symphony.api.held import IDENTITY_LIMIT, UnusableIdentity, check_identity
    from symphony.config.source import UnreadableFile, read_file
    from symphony.tls.identity import Part

    options = {Part.CHAIN: f"--cert {cert_file}", Part.KEY: f"--key {key_file}"}
    content = {}
    for part, file in ((Part.CHAIN, cert_file), (Part.KEY, key_file)):
        try:
            content[part] = read_file(file, IDENTITY_LIMIT)
        except UnreadableFile as error:
            leave(Exit.CONFIGURATION, f"{options[part].partition(' ')[0]}: {error}")
    try:
        identity, warnings = check_identity(content[Part.CHAIN], content[Part.KEY], datetime.now(UTC))
    except UnusableIdentity as error:
        leave(
            Exit.CONFIGURATION,
            "\n".join(f"{options[finding.part]} {finding.text}" for finding in error.findings),
        )
    for finding in warnings:
        click.echo(f"warning: {options[finding.part]} {finding.text}", err=True)
    return identity
