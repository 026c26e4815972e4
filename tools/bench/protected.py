"""Symphony with `[protection]` on: everything is checked, and nothing is refused."""

from __future__ import annotations

import json

from tools.bench.peers import Service, Symphony

NETWORKS = 10_000
FINGERPRINTS = 1_000


class Protected(Symphony):
    """Symphony with lists of networks and fingerprints as a public service may have them, none of which match."""

    def listener_lines(self, service: Service) -> str:
        """Write the list of networks beside the configuration, and name it there."""
        networks = "\n".join(f"10.{n >> 7 & 255}.{(n & 127) << 1}.0/24" for n in range(NETWORKS))
        blocked = service.directory / "blocklist.txt"
        blocked.write_text(f"{networks}\n")
        ja3 = [f"{number:032x}" for number in range(FINGERPRINTS)]
        ja4 = [f"t13d1516h2_{number:012x}_e5627efa2ab1" for number in range(FINGERPRINTS)]
        return f"""[listeners.protection]
require_sni = true
allowlist = ["192.0.2.0/24"]
blocklist = ["@{blocked}"]
ja3_blocklist = {json.dumps(ja3)}
ja4_blocklist = {json.dumps(ja4)}
"""
