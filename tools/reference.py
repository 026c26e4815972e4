"""Writes docs/configuration.md from the configuration's types: every key with its type, default and meaning.

python -m tools.reference            write it
python -m tools.reference --check    exit with 1 when it is not what the types say
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from symphony.config import model

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration reference

Written by `python -m tools.reference` from the types that files are checked against; do not edit it.

A configuration is a TOML file, or YAML or JSON by its ending. Unknown keys are refused, and all findings are reported
at once with their places. Times are in milliseconds. Names of files are relative to the configuration file. Without
`-c`, the file is the first of `$SYMPHONY_CONFIG`, `./symphony.toml` and `/etc/symphony/symphony.toml`.

An example with something of everything:

<!-- test: ports 80 443 9100 -->
<!-- test: given openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=app \\
    -keyout key.pem -out chain.pem -->
<!-- test: given cp chain.pem clients.pem; cp chain.pem shop.pem; cp key.pem shop.key; echo 203.0.113.0/24 > bad.txt -->
<!-- test: file symphony.toml -->
```toml
drain_timeout_ms = 60_000
access_log = { rate = 0.1 }
admin = { port = 9100 }

[[listeners]]
port = 443
default_cert = { cert_chain_file = "chain.pem", private_key_file = "key.pem" }
max_connections = 50_000

[listeners.protection]
blocklist = ["192.0.2.0/24", "@bad.txt"]
rate_limit = { connections_per_second = 20, burst = 100 }
penalty_box = { duration_ms = 600_000 }

[[listeners]]
port = 80
mode = "http"                 # redirects to https

[[routes]]
sni = "shop.example.com"
cert = { cert_chain_file = "shop.pem", private_key_file = "shop.key" }
http2 = true
source_address_header = "proxy_protocol_v2"
upstreams = [
    { kind = "tcp", host = "10.0.0.11", port = 8080, weight = 2, health_check = { interval_ms = 2000 } },
    { kind = "tcp", host = "10.0.0.12", port = 8080, health_check = { interval_ms = 2000 } },
]

[[routes]]
sni = "*.internal.example.com"
mtls = { client_ca_cert_file = "clients.pem" }
upstreams = [{ kind = "uds", path = "/run/internal.sock" }]

[[routes]]
sni = "vault.example.com"
terminate_tls = false         # its own certificate, on its own machine
upstreams = [{ kind = "tcp", host = "vault.lan", port = 8200 }]

[[routes]]
sni = "metered.example.com"
suspended = true              # each connection waits for a decision
```

```console
$ symphony check
4 routes, 2 listeners, ok
```
"""

TABLES = (
    ("The file", "at the top level", model.Config),
    ("Listener", "`[[listeners]]`", model.Listener),
    ("Protection", "`[listeners.protection]`", model.Protection),
    ("Route", "`[[routes]]`", model.Route),
    ("TCP upstream", '`upstreams` with `kind = "tcp"`', model.TcpUpstream),
    ("Unix upstream", '`upstreams` with `kind = "uds"`', model.UdsUpstream),
    ("Certificate", "`default_cert`, `cert`", model.Certificate),
    ("Client certificates", "`mtls`", model.MutualTls),
)


def main() -> int:
    """Write the page, or compare it."""
    page = render()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != page:
            print(f"{PAGE.name} is not what the types say: run python -m tools.reference", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page)
    return 0


def render() -> str:
    """The whole page."""
    named = {table for _, _, table in TABLES}
    queue = [*TABLES]
    parts = [HEAD]
    while queue:
        title, where, table = queue.pop(0)
        parts.append(f"\n## {title}\n\n{where[0].upper()}{where[1:]}. {_summary(table)}\n\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|\n")
        for field in msgspec.structs.fields(table):
            parts.append(_row(table, field))
            for other in _tables_in(field.type):
                if other not in named:
                    named.add(other)
                    queue.append((_title(other), f"`{field.name}`", other))
    return "".join(parts)


def _row(table: type[Struct], field: Any) -> str:
    kind, meaning = _describe(field.type)
    if not meaning:
        meaning = ", ".join(f"see {_title(other)}" for other in _tables_in(field.type))
    return f"| `{field.encode_name}` | {kind} | {_default(field)} | {meaning.replace('|', chr(92) + '|')} |\n"


def _default(field: Any) -> str:
    value = field.default if field.default is not NODEFAULT else NODEFAULT
    if value is NODEFAULT and field.default_factory is not NODEFAULT:
        value = field.default_factory()
    if value is NODEFAULT:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Struct):
        return "all defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple | list):
        return "`[]`" if not value else f"`{list(value)}`"
    return f"`{value}`"


def _describe(annotation: Any) -> tuple[str, str]:
    """The type in words, with its limits, and the description that the annotation bears."""
    meaning = ""
    limits = ""
    while get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        for meta in metas:
            if isinstance(meta, Meta):
                meaning = meaning or meta.description or ""
                limits = limits or _limits(meta)
    kind, inner = _kind(annotation)
    limits = limits or inner
    return f"{kind}{f', {limits}' if limits else ''}", meaning


def _kind(annotation: Any) -> tuple[str, str]:
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [_describe(part)[0] for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(kinds)), ""
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(annotation)), ""
    if origin in (tuple, list):
        return f"array of {_describe(get_args(annotation)[0])[0]}", ""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return "table", ""
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(
        annotation, str(annotation)
    ), ""


def _limits(meta: Meta) -> str:
    parts = []
    if meta.ge is not None and meta.le is not None:
        return f"{meta.ge} to {meta.le}"
    for sign, value in (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("below", meta.lt)):
        if value is not None:
            parts.append(f"{sign} {value}")
    return ", ".join(parts)


def _tables_in(annotation: Any) -> Iterator[type[Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        yield annotation
    for part in get_args(annotation):
        if not isinstance(part, Meta):
            yield from _tables_in(part)


def _summary(table: type[Struct]) -> str:
    return " ".join((table.__doc__ or "").strip().split("\n\n")[0].split())


def _title(table: type[Struct]) -> str:
    for title, _, known in TABLES:
        if known is table:
            return title
    name = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in table.__name__)
    return name.strip().capitalize()


if __name__ == "__main__":
    sys.exit(main())
