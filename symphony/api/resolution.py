"""What a program says becomes of a held connection: its route, checked, with every file read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from msgspec import Struct

from symphony.api.document import as_table, plain
from symphony.config.check import check_upstream
from symphony.config.credentials import Credentials
from symphony.config.model import (
    Certificate,
    Fingerprint,
    MutualTls,
    Route,
    SourceAddressHeader,
    Upstream,
)
from symphony.config.problem import ConfigError, SharedWarnings
from symphony.config.schema import convert
from symphony.messages.held import HeldRoute
from symphony.watch.files import Sightings


class _Decision(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of a :class:`ResolveRoute` in which a certificate is in one place."""

    upstreams: tuple[Upstream, ...] = ()
    terminate_tls: bool | None = None
    cert: Certificate | None = None
    mtls: MutualTls | None = None
    http2: bool | None = None
    source_address_header: SourceAddressHeader | None = None
    forward_fingerprint: tuple[Fingerprint, ...] | None = None

    def __repr__(self) -> str:
        """Print no key."""
        return f"{type(self).__name__}(upstreams={self.upstreams!r}, terminate_tls={self.terminate_tls!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Replace Struct's own, which would put a key into a rich traceback."""
        return [("upstreams", self.upstreams), ("terminate_tls", self.terminate_tls)]


class ResolveRoute(_Decision, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a held connection is to go; what is left out is as the suspended route says.

    The certificate is `cert`, or `cert_chain` with `private_key`; PEM may be text or bytes. `mtls` stands in the place
    of what the route or its listener says of client certificates; without it, that holds for any certificate.
    """

    cert_chain: str | bytes | None = None
    private_key: str | bytes | None = None


RouteLike: TypeAlias = ResolveRoute | Route | Mapping[str, Any]
"""A route for one connection, as one of these types or as a mapping of their shape; a route's `sni` says nothing."""


def held_route(route: RouteLike) -> HeldRoute:
    """Return what an acceptor is told of `route`. Raises :class:`ConfigError` with every finding."""
    given = as_table(plain(route))
    given.pop("sni", None)
    if "upstream" in given and "upstreams" not in given:
        given["upstreams"] = [given.pop("upstream")]
    pair = {key: given.pop(key) for key in ("cert_chain", "private_key") if key in given}
    if pair:
        given.setdefault("cert", pair)
    said, problems = convert(given, _Decision)
    if said is None:
        raise ConfigError("", problems)
    directory = os.getcwd()
    upstreams = tuple(
        check_upstream(upstream, f"upstreams[{at}]", directory, problems)
        for at, upstream in enumerate(said.upstreams)
    )
    credentials = Credentials(directory, datetime.now(UTC), SharedWarnings(), Sightings())
    identity = authority = ""
    if said.cert is not None:
        identity = credentials.identity(said.cert, "cert", problems)
    if said.mtls is not None:
        authority = credentials.client_authority(said.mtls, "mtls", problems)
    if problems:
        raise ConfigError("", problems)
    return HeldRoute(
        upstreams,
        said.terminate_tls,
        credentials.identities[identity] if identity else None,
        said.http2,
        said.source_address_header,
        said.forward_fingerprint,
        credentials.client_authorities[authority] if authority else None,
    )
