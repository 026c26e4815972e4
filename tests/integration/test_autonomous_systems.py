"""Whole autonomous systems refused, by a database that is replaced under way."""

from __future__ import annotations

import json
import ssl

from tests.support.acceptor import wait_until
from tests.support.mmdb import write_database
from tests.support.showcase import running_showcase
from tests.support.sources import connect_from

PROTECTION = """
[listeners.protection]
allowlist = ["127.0.3.3"]
asn_blocklist = [64496]
asn_database_path = "asn.mmdb"

[[routes]]
"""


def refused(port: int, address: str) -> bool:
    """Whether a connection is reset before its ClientHello is answered, by a certificate that nobody trusts."""
    context = ssl.create_default_context()
    try:
        with connect_from(address, port) as sock, context.wrap_socket(sock, server_hostname="a.test"):
            raise AssertionError("the certificate is trusted")
    except ConnectionResetError:
        return True
    except ssl.SSLCertVerificationError:
        return False


def test_a_system_is_refused_as_far_as_the_database_of_now_says() -> None:
    with running_showcase() as show:
        symphony, port = show.symphony, show.symphony.port()
        database = symphony.config_file.parent / "asn.mmdb"

        write_database(database, {"127.0.3.0/24": {"autonomous_system_number": 64496}})
        symphony.config_file.write_text(show.config.replace("\n[[routes]]\n", PROTECTION, 1))
        assert symphony.command("reload").returncode == 0
        wait_until(lambda: refused(port, "127.0.3.1"), "the system is refused")
        assert not refused(port, "127.0.3.3")  # the allowlist has the last word
        assert not refused(port, "127.0.4.1")
        assert symphony.status().connections.errors["asn_blocked"] >= 1
        report = json.loads(symphony.command("blocked", "--json").stdout)
        assert report["lists"][0]["asn_blocklist"] == [64496]
        assert "asn_blocklist: 64496" in symphony.command("blocked").stdout

        # By rename, as those who publish such databases advise: what watches the files reads it anew.
        newer = write_database(
            database.with_suffix(".new"), {"127.0.4.0/24": {"autonomous_system_number": 64496}}
        )
        newer.rename(database)
        assert symphony.command("reload").returncode == 0
        wait_until(lambda: refused(port, "127.0.4.1"), "the newer database is served")
        assert not refused(port, "127.0.3.1")

        # A broken one changes nothing.
        database.write_bytes(b"half a database")
        broken = symphony.command("reload")
        assert broken.returncode != 0
        assert "listeners[0].protection.asn_database_path" in broken.stdout + broken.stderr
        assert refused(port, "127.0.4.1")
