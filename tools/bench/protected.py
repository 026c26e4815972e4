"""Symphony with `[protection]` on: everything is checked, and nothing is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tools.bench.peers import Service, Symphony

NETWORKS = 10_000
FINGERPRINTS = 1_000
PARTS = ("networks", "fingerprints", "rates")


class Protected(Symphony):
    """Symphony with its protection as a public service may have it; no list matches, and no rate is reached."""

    def __init__(self, parts: Iterable[str] = PARTS) -> None:
        """`parts` are those of PARTS that are on."""
        super().__init__()
        self._parts = tuple(parts)

    def listener_lines(self, service: Service) -> str:
        """Return the table; the list of networks is written beside the configuration, and named there."""
        lines = ["[listeners.protection]"]
        if "networks" in self._parts:
            networks = "\n".join(f"10.{n >> 7 & 255}.{(n & 127) << 1}.0/24" for n in range(NETWORKS))
            blocked = service.directory / "blocklist.txt"
            blocked.write_text(f"{networks}\n")
            lines += ['allowlist = ["192.0.2.0/24"]', f'blocklist = ["@{blocked}"]', "require_sni = true"]
        if "fingerprints" in self._parts:
            ja3 = [f"{number:032x}" for number in range(FINGERPRINTS)]
            ja4 = [f"t13d1516h2_{number:012x}_e5627efa2ab1" for number in range(FINGERPRINTS)]
            lines += [f"ja3_blocklist = {json.dumps(ja3)}", f"ja4_blocklist = {json.dumps(ja4)}"]
        if "rates" in self._parts:
            lines += [
                "rate_limit = { connections_per_second = 1e6 }",
                "sustained = { connections_per_minute = 6e7 }",
                "penalty_box = { duration_ms = 60000 }",
                "max_concurrent_per_ip = 1000000",
            ]
        return "\n".join(lines) + "\n"
