"""``symphony certs`` and ``symphony doctor`` as people and programs call them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from symphony.tls.certificate_facts import read_facts
from symphony.tls.certificate_maker import make_authority, make_certificate
from tests.support.symphony_process import run_symphony, running_symphony

NOW = datetime.now(UTC)
AUTHORITY = make_authority("Test Authority")
SOON = make_certificate(
    ["soon.test", "*.soon.test"], authority=AUTHORITY, not_after=NOW + timedelta(days=5, hours=1)
)
LATER = make_certificate(["later.test", "192.0.2.1"], key_type="rsa")
ROUTE = """
[[routes]]
sni = "{0}"
upstreams = [{{ kind = "uds", path = "nobody.sock" }}]
"""
CONFIG = (
    """
workers = 1
[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = { cert_chain_file = "later.pem", private_key_file = "later.key" }
"""
    + ROUTE.format("soon.test")
    + 'cert = { cert_chain_file = "soon.pem", private_key_file = "soon.key" }\n'
    + ROUTE.format("later.test")
    + ROUTE.format("")
)
FILES = {
    "soon.pem": SOON.chain_pem,
    "soon.key": SOON.key_pem,
    "later.pem": LATER.chain_pem,
    "later.key": LATER.key_pem,
}
EXPECTED = [
    {"names": ["soon.test", "*.soon.test"], "issuer": "Test Authority", "key_type": "EC secp256r1"},
    {"names": ["later.test", "192.0.2.1"], "issuer": "itself", "key_type": "RSA 2048"},
]


def test_certs_of_a_running_instance_and_of_a_file(tmp_path: Path) -> None:
    with running_symphony(CONFIG, files=FILES) as symphony:
        served = json.loads(symphony.command("certs", "--json").stdout)
        for found, expected in zip(served, EXPECTED, strict=True):
            assert found.items() >= expected.items()
        assert [found["days_left"] for found in served] == [5, 364]
        assert [found["routes"] for found in served] == [["soon.test"], ["later.test", ""]]
        assert served[0]["not_after"].endswith("Z")
        shown = symphony.command("certs").stdout
        assert "soon.test, *.soon.test" in shown and "RSA 2048" in shown
        assert "PRIVATE" not in shown

        # In the middle of a rotation the file is of no use, and the instance serves the last good pair.
        symphony.write("soon.pem", LATER.chain_pem)
        assert symphony.command("reload").returncode == 2
        assert json.loads(symphony.command("certs", "--json").stdout) == served
        refused = run_symphony("certs", "-c", str(symphony.config_file))
        assert refused.returncode == 2 and "soon.key" in refused.stderr

        symphony.write("soon.pem", SOON.chain_pem)
        of_file = run_symphony("certs", "--json", "-c", str(symphony.config_file))
        assert json.loads(of_file.stdout) == served
    nobody = run_symphony("certs", "--runtime-dir", str(tmp_path))
    assert nobody.returncode == 3


def test_the_first_of_a_chain_to_expire_counts() -> None:
    intermediate = make_authority("Short", authority=AUTHORITY, not_after=NOW + timedelta(days=2))
    facts = read_facts(make_certificate(["a.test"], authority=intermediate).chain_pem)
    assert abs(facts.not_after - (NOW + timedelta(days=2)).timestamp()) < 2
    assert facts.issuer == "Short"
    with pytest.raises(ValueError):
        read_facts(b"")


def test_doctor(tmp_path: Path) -> None:
    found = run_symphony("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(found.stdout)}
    assert {"kernel", "OpenSSL", "clock", "descriptors", "packages"} <= findings.keys()
    assert findings["kernel"]["health"] == "ok"
    assert found.returncode == any(finding["health"] == "error" for finding in findings.values())
    assert all(finding["advice"] for finding in findings.values() if finding["health"] != "ok")
    shown = run_symphony("doctor")
    assert shown.returncode == found.returncode
    assert "OpenSSL" in shown.stdout and "\x1b" not in shown.stdout

    config = tmp_path / "symphony.toml"
    config.write_text(CONFIG.replace("port = 0", "port = 8443\nmax_connections = 2000000000"))
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    short = run_symphony("doctor", "-c", str(config))
    assert short.returncode == 1 and "4000001024" in short.stdout.replace("\n", "").replace(" ", "")
    config.write_text("nonsense = ")
    assert run_symphony("doctor", "-c", str(config)).returncode == 2
