"""The files in ``ops``: that those who read them would take them, and that they agree with the program."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from symphony.cli.main import main
from symphony.config.credentials import is_exposed
from symphony.config.resolve import load
from symphony.tls.certificate_maker import make_certificate

OPS = Path(__file__).resolve().parents[2] / "ops"
SERVICE = OPS / "systemd" / "symphony.service"


def options_of(command: str) -> set[str]:
    found = main.commands.get(command) or main.get_command(None, command)  # type: ignore[arg-type]
    assert found is not None, command
    return {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}


def check_command(words: list[str]) -> None:
    """The words behind ``symphony`` are a command of it, with options that it has."""
    known = options_of(words[0])
    for word in words[1:]:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, words


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_units_are_taken_by_systemd(tmp_path: Path) -> None:
    for unit in ("symphony.service", "symphony.socket"):
        text = (OPS / "systemd" / unit).read_text().replace("/opt/symphony/bin/symphony", "/bin/true")
        (tmp_path / unit).write_text(text)
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            tmp_path / "symphony.service",
            tmp_path / "symphony.socket",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "symphony" in line]
    assert ours == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_service_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", SERVICE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Overall exposure level" not in done.stdout:
        pytest.skip(f"this systemd-analyze does not judge files: {done.stderr.strip()}")
    level = float(done.stdout.rpartition("Overall exposure level for ")[2].split(":")[1].split()[0])
    assert level < 2.0, done.stdout


def test_the_service_starts_what_there_is() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(SERVICE)
    service = unit["Service"]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) > 0
    for key in ("ExecStart", "ExecStartPre"):
        program, *words = service[key].split()
        assert program == "/opt/symphony/bin/symphony"
        check_command(words)
    assert service["RuntimeDirectory"] == "symphony" and "/run/symphony" in service["ExecStart"]


def test_what_is_advised_for_keys_raises_no_warning() -> None:
    advised = re.search(r"chown root:symphony, chmod (\d+)", SERVICE.read_text())
    assert advised is not None
    volumes = manifests()["DaemonSet"]["spec"]["template"]["spec"]["volumes"]
    (mounted,) = [volume["secret"]["defaultMode"] for volume in volumes if "secret" in volume]
    for mode in (int(advised[1], 8), mounted):
        assert mode & stat.S_IRGRP, "the group of the unit or the pod is who has to read it"
        assert not is_exposed(os.stat_result((stat.S_IFREG | mode, 0, 0, 1, 0, 10001, 0, 0, 0, 0)))


def test_every_line_of_sysctl_is_one_that_the_kernel_knows_and_is_explained() -> None:
    explained = False
    settings = 0
    for line in (OPS / "sysctl.d" / "90-symphony.conf").read_text().splitlines():
        if not line:
            explained = False
        elif line.startswith("#"):
            explained = True
        else:
            key, value = (part.strip() for part in line.split("=", 1))
            assert explained, line
            assert re.fullmatch(r"\d+( \d+)*", value), line
            assert re.fullmatch(r"(fs|net)(\.[\w-]+)+", key), line
            path = Path("/proc/sys") / key.replace(".", "/")
            if path.parent.exists() and "netfilter" not in key:
                assert path.exists() or not Path("/proc/sys/net/core/netdev_max_backlog").exists(), key
            settings += 1
    assert settings > 10


def test_dockerfile() -> None:
    lines = (OPS / "container" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    assert len(found["FROM"]) == 2 and all("slim" in image for image in found["FROM"])
    assert found["USER"] == ["10001:10001"]
    assert found["ENTRYPOINT"] == ['["symphony"]'], "a shell would swallow the signals"
    check_command(yaml.safe_load(found["CMD"][0]))
    health = yaml.safe_load(found["HEALTHCHECK"][0].partition("CMD")[2])
    assert health[0] == "symphony"
    check_command(health[1:])
    for source in (word for rest in found["COPY"][:4] for word in rest.split()[:-1]):
        assert (OPS.parent / source).exists(), source


def test_compose() -> None:
    service = yaml.safe_load((OPS / "container" / "compose.yaml").read_text())["services"]["symphony"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    context = (OPS / "container" / service["build"]["context"]).resolve()
    assert (context / service["build"]["dockerfile"]).exists()
    assert int(service["stop_grace_period"].rstrip("s")) > 30, "longer than drain_timeout_ms"


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((OPS / "kubernetes" / "symphony.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_configuration_in_kubernetes_is_one(tmp_path: Path) -> None:
    text = manifests()["ConfigMap"]["data"]["symphony.toml"]
    made = make_certificate(["app.example.com"])
    for name, content in (("tls.crt", made.chain_pem), ("tls.key", made.key_pem)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "symphony.toml").write_text(text.replace("/certs/", f"{tmp_path}/"))
    config, snapshot = load(str(tmp_path / "symphony.toml")).require()
    pod = manifests()["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert snapshot.listeners[0].port == ports["https"]
    assert config.admin is not None and config.admin.port == ports["admin"]
    pause = 10
    assert pod["terminationGracePeriodSeconds"] > config.drain_timeout_ms / 1000 + pause
    assert f"time.sleep({pause})" in container["lifecycle"]["preStop"]["exec"]["command"][-1]


def test_the_pod_is_confined_and_watched() -> None:
    daemon = manifests()["DaemonSet"]["spec"]
    assert daemon["selector"]["matchLabels"] == daemon["template"]["metadata"]["labels"]
    (container,) = daemon["template"]["spec"]["containers"]
    check_command(container["args"])
    assert daemon["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {
        container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    } == {"/health/ready", "/health/live"}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in daemon["template"]["spec"]["volumes"]}


def test_logrotate_signals_the_supervisor() -> None:
    text = (OPS / "logrotate.d" / "symphony").read_text()
    assert text.count("{") == text.count("}") == 1
    assert "SIGUSR1" in text and "--log-file" in text
    assert "--log-file" in options_of("run")
