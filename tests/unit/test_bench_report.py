"""The benchmark's report and configuration texts."""

from __future__ import annotations

import io
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from symphony.config.model import Config
from symphony.protection.cidr import CidrSet, parse_list
from symphony.tls.fingerprint import check_ja3, check_ja4
from tools.bench import catalogue, certs, report, suite
from tools.bench.__main__ import main
from tools.bench.axes import CPU
from tools.bench.figures import spread
from tools.bench.outcome import Figure, Machine, Report, Target
from tools.bench.peers import Haproxy, Hitch, Nginx, Original, Peer, Service, Stunnel, Symphony
from tools.bench.protected import FINGERPRINTS, NETWORKS, Protected
from tools.bench.reload import MOVED, ManyRoutes

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _figure(peer: str, axis: str, ratio: float, **more: object) -> Figure:
    figure = Figure(axis=axis, title=f"title of {axis}", peer=peer, metric=CPU, unit="µs", **more)  # type: ignore[arg-type]
    figure.value, figure.reference, figure.ratio = spread([30.0]), spread([32.0]), spread([ratio])
    return figure


@pytest.fixture
def sample() -> Report:
    failed = Figure(axis="up", title="title of up", peer="hitch", metric=CPU, failure="hitch: closed")
    memory = Figure(
        axis="memory", title="idle", peer="symphony", metric="KB each", unit="KB", target=Target("value", 22)
    )
    memory.value = spread([21.0, 20.0, 23.5])
    return Report(
        started="2026-01-01T00:00:00+00:00",
        seconds=60,
        pairs=5,
        reference="nginx",
        machine=Machine(
            processor="A CPU", cores=2, memory_mb=1000, kernel="6", python="3", openssl="4", descriptors=1000,
            load_average=0.1,
        ),
        versions={"nginx": "1.22.1"},
        missing={"stunnel": "stunnel is not installed"},
        warnings=["one core only"],
        figures=[
            _figure("symphony", "small", 1.10, target=Target("ratio", 1.05)),
            _figure("haproxy", "small", 1.08),
            _figure("symphony", "down", 0.90, target=Target("ratio", 0.92)),
            failed,
            memory,
        ],
    )  # fmt: skip


def test_what_falls_short_stands_first(sample: Report) -> None:
    lines = report.shortfalls(sample)
    assert lines == [
        "title of small, CPU per operation: 1.10 (1.10-1.10), target ≤ 1.05",
        "title of up: hitch failed and is left out: hitch: closed",
    ]
    text = report.to_markdown(sample)
    assert text.index(lines[0]) < text.index("## CPU per operation")
    assert "stunnel is not installed" in text
    assert "nginx 1.22.1" in text


def test_a_failed_cell_has_no_number(sample: Report) -> None:
    head, rows = report.ratio_table(sample)
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert cells["title of small"]["symphony"] == "1.10 (1.10-1.10)"
    assert cells["title of small"]["haproxy"] == "1.08 (1.08-1.08)"
    assert cells["title of small"]["target"] == "≤ 1.05: MISSED"
    assert cells["title of down"]["target"] == "≤ 0.92: met"
    assert cells["title of up"]["hitch"] == "failed"
    assert cells["title of up"]["symphony"] == "-"


def test_other_figures_have_their_unit(sample: Report) -> None:
    head, rows = report.value_table(sample)
    assert head == ["axis", "figure", "symphony", "nginx", "symphony to it", "target"]
    assert rows == [["idle", "KB each", "21.0 (20.0-23.5) KB", "-", "", "≤ 22 KB: met"]]


def test_what_symphony_is_compared_with_itself_for_stands_apart(sample: Report) -> None:
    figure = _figure(
        "symphony", "lookup-1000", 1.01, target=Target("ratio", 1.03), against="Symphony with 10 routes"
    )
    sample.figures.append(figure)
    _, rows = report.against_table(sample)
    assert rows == [
        [
            "title of lookup-1000",
            "30.0 (30.0-30.0) µs",
            "32.0 (32.0-32.0) µs",
            "Symphony with 10 routes",
            "1.01 (1.01-1.01)",
            "≤ 1.03: met",
        ]
    ]
    for _, others in (report.ratio_table(sample), report.value_table(sample)):
        assert "title of lookup-1000" not in {row[0] for row in others}
    assert "| title of lookup-1000 | 30.0" in report.to_markdown(sample)


def test_a_terminal_shows_brackets_as_they_are(sample: Report) -> None:
    sample.figures = [
        _figure("symphony", "protection", 1.01, against="Symphony without"),
        _figure("symphony", "small", 1.1),
    ]
    for figure in sample.figures:
        figure.title = "with [protection]"
    console = Console(width=200, file=io.StringIO())
    report.to_terminal(sample, console)
    assert console.file.getvalue().count("with [protection]") == 2  # type: ignore[attr-defined]


def test_json_comes_back_as_it_was(sample: Report) -> None:
    assert msgspec.json.decode(msgspec.json.encode(sample), type=Report) == sample


def test_nothing_short_is_told_from_nothing_known(sample: Report) -> None:
    sample.figures = [_figure("symphony", "down", 0.90, target=Target("ratio", 0.92))]
    assert "Nothing: every target that was measured is met." in report.to_markdown(sample)
    sample.figures = [_figure("symphony", "both", 0.90)]
    assert "Not known: nothing that has a target was measured in this run." in report.to_markdown(sample)


def test_what_was_left_out_has_a_heading_only_where_something_was(sample: Report) -> None:
    assert "## Left out\n\n- stunnel: " in report.to_markdown(sample)
    sample.missing, sample.warnings = {}, []
    text = report.to_markdown(sample)
    assert "Left out" not in text and "\n\n\n" not in text


def test_the_document_says_by_which_command_it_was_made(
    sample: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(suite, "measure", lambda *_: sample)
    monkeypatch.setattr(suite, "choose", lambda _: suite.Field([suite.Again()], {}, None))
    document = tmp_path / "benchmarks.md"
    told = ["--peers", "symphony,haproxy", "--scale", "0.7", "--calibrate", "--only", "up"]
    CliRunner().invoke(main, [*told, "--doc", str(document), "--json", str(tmp_path / "benchmarks.json")])
    made_by = "python -m tools.bench --only up --peers symphony,haproxy --scale 0.7 --calibrate"
    assert document.read_text().endswith(f"\n- by `{made_by}`\n")


def test_the_stored_document_is_what_the_stored_figures_make() -> None:
    stored = msgspec.json.decode((DOCS / "benchmarks.json").read_bytes(), type=Report)
    images = re.findall(r"!\[\w+\]\((.*)\)", (DOCS / "benchmarks.md").read_text())
    assert report.to_markdown(stored, images) == (DOCS / "benchmarks.md").read_text()


def test_axes_are_chosen_by_name_and_prefix() -> None:
    axes = catalogue.all_axes()
    assert [axis.key for axis in catalogue.select(["up", "resumed", "small-25"], axes)] == [
        "resumed-1.3", "resumed-1.2", "small-25", "up",
    ]  # fmt: skip
    assert len({axis.key for axis in axes}) == len(axes)
    assert len(catalogue.smoke_axes()) == 2
    with pytest.raises(catalogue.UnknownAxis, match="no axis 'smal'"):
        catalogue.select(["smal"], axes)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    pair = certs.make(tmp_path, "bench.test", "ecdsa")
    return Service(tmp_path, 45678, tmp_path / "up.sock", pair)


@pytest.mark.parametrize("passthrough", [False, True])
def test_symphonys_configuration_is_valid(service: Service, passthrough: bool) -> None:
    service = Service(service.directory, 45678, service.upstream, service.pair, passthrough, workers=2)
    config = msgspec.convert(tomllib.loads(Symphony().config(service)), Config)
    assert config.workers == 2
    assert config.listeners[0].port == 45678
    assert config.routes[0].terminate_tls is not passthrough
    assert (config.routes[0].cert is None) is passthrough


@pytest.mark.parametrize(
    ("peer", "wanted"),
    [
        (Symphony(), 'source_address_header = "proxy_protocol_v2"'),
        (Nginx(), "proxy_protocol on;"),
        (Haproxy(), "send-proxy-v2"),
        (Hitch(), "write-proxy-v2 = on"),
        (Stunnel(), "protocol = proxy"),
        (Original(), '"sourceAddressHeader": "proxyProtocolV2"'),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_peer_can_send_a_proxy_header(service: Service, peer: Peer, wanted: str) -> None:
    assert wanted not in peer.config(service)
    assert wanted in peer.config(replace(service, proxy_header=True))


def test_protection_has_long_valid_lists_that_match_nobody(service: Service) -> None:
    config = msgspec.convert(tomllib.loads(Protected().config(service)), Config)
    protection = config.listeners[0].protection
    networks, problems = parse_list(Path(protection.blocklist[0].removeprefix("@")).read_text())
    assert (len(set(networks)), problems) == (NETWORKS, [])
    assert not CidrSet(networks).contains("127.0.0.1")
    assert len({check_ja3(entry) for entry in protection.ja3_blocklist}) == FINGERPRINTS
    assert len({check_ja4(entry) for entry in protection.ja4_blocklist}) == FINGERPRINTS
    assert protection.require_sni
    assert protection.rate_limit is not None
    rates = (
        msgspec.convert(tomllib.loads(Protected(["rates"]).config(service)), Config).listeners[0].protection
    )
    assert (rates.blocklist, rates.ja3_blocklist, rates.rate_limit) == ((), (), protection.rate_limit)


def test_many_routes_are_valid_and_one_moves(service: Service) -> None:
    many = ManyRoutes(10)
    config = msgspec.json.decode(many.config(service), type=Config)
    assert len(config.routes) == 12
    moved = msgspec.json.decode(many.moved(service, Path("/elsewhere.sock")), type=Config)
    changed = [a.sni for a, b in zip(config.routes, moved.routes, strict=True) if a != b]
    assert changed == [MOVED]


@pytest.mark.parametrize(
    "peer", [Nginx(), Haproxy(), Hitch(), Stunnel(), Original()], ids=lambda peer: peer.name
)
def test_peers_serve_the_same_port_and_upstream(peer: Peer, service: Service) -> None:
    text = peer.config(service)
    assert "45678" in text
    assert str(service.upstream) in text
    assert "bench.test" in text or str(service.pair.chain.with_suffix("")) in text


def test_the_original_sends_no_header_of_its_own(service: Service) -> None:
    line = next(line for line in Original().config(service).splitlines() if "new SymphonyProxyWrap(" in line)
    config, _ = json.JSONDecoder().raw_decode(line[line.index("{") :])
    assert config["routes"][0]["sourceAddressHeader"] == "none"
