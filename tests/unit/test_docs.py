"""The documentation: the site builds without a complaint, and no page links to nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import symphony
from symphony.cli.main import COMMANDS, main
from symphony.observe.reasons import Reason
from tests.support.pages import CHECKOUT, anchors, broken_links, code_of, pages

LIMIT_S = 90


def build(source: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` does, with nothing kept from an earlier build."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-d",
            into / "trees",
            source,
            into / "html",
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=CHECKOUT,
    )


def test_the_site_builds_without_a_warning_and_stands_alone(tmp_path: Path) -> None:
    done = build(CHECKOUT / "docs", tmp_path)
    assert done.returncode == 0, (
        f"{done.stderr}\n(a page that is in no toctree belongs into one of docs/index.md)"
    )
    made = {page.stem for page in (tmp_path / "html").glob("*.html")}
    assert made >= {page.stem for page in (CHECKOUT / "docs").glob("*.md")}
    index = (tmp_path / "html" / "index.html").read_text()
    assert all(f'href="{name}.html"' in index for name in ("quick-start", "operations", "configuration"))
    quick = (tmp_path / "html" / "quick-start.html").read_text()
    assert "A first configuration" in quick
    assert "Runtime directory" not in quick, "more of the README is included than the quick start"
    # Nothing is loaded from the network.
    for page in (tmp_path / "html").glob("*.html"):
        loaded = [line for line in page.read_text().splitlines() if "<script" in line or "<link" in line]
        assert loaded, page.name
        assert not [line for line in loaded if "//" in line.replace("</script>", "")], page.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](operations.md#nowhere)", "nowhere"),
        ("[x](#nowhere)", "nowhere"),
        ("[x](../ops/nowhere.sh)", "nowhere.sh"),
    ],
)
def test_a_link_to_nothing_is_found(tmp_path: Path, text: str, complaint: str) -> None:
    page = tmp_path / "page.md"
    shutil.copy(CHECKOUT / "docs" / "operations.md", tmp_path)
    page.write_text(f"# Page\n\n## Here\n\n[fine](#here) [fine](operations.md) {text}\n")
    (found,) = broken_links(page)
    assert complaint in found


def test_the_build_fails_for_links_to_nothing(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(CHECKOUT / "docs" / "conf.py", source)
    links = (
        "[x](nowhere.md) [x](other.md#nowhere) [x](#nowhere) [x](../ops/nowhere.sh) [fine](other.md#there)"
    )
    (source / "index.md").write_text(f"# Page\n\n{links}\n\n```{{toctree}}\nother\n```\n")
    (source / "other.md").write_text("# Other\n\n## There\n")
    done = build(source, tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("xref_missing") == 4, done.stderr


def test_headings_are_named_as_github_does(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# At 3 a.m.\n\n## `symphony top`: a *look*\n\n## Same\n\n## Same\n\n```\n# none\n```\n")
    assert anchors(page) == {"at-3-am", "symphony-top-a-look", "same", "same-1"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_page_links_to_nothing(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_every_reason_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (CHECKOUT / "docs" / "reasons.md").read_text(), re.MULTILINE)
    explained = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(explained) == sorted(Reason), "docs/reasons.md explains each reason once"


def test_the_events_of_the_log_are_those_that_are_written() -> None:
    page = (CHECKOUT / "docs" / "operations.md").read_text()
    table = page.partition("| event | level | says |")[2].partition("\n\n")[0]
    events = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in row.split("`")[1::2]
    ]
    assert len(events) > 10
    files = [
        file for room in ("symphony", "actors", "supervisor") for file in (CHECKOUT / room).rglob("*.py")
    ]
    written = "".join(file.read_text() for file in files)
    assert [name for name in events if f'"{name}"' not in written] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    wrong = []
    context = click.Context(main)
    for code in code_of(page):
        for name, rest in re.findall(r"(?<!from )\bsymphony ([a-z]+)\b([^\n`;&|]*)", code):
            command = main.get_command(context, name)
            if command is None:
                wrong.append(f"symphony {name}")
                continue
            known = {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            given = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest.partition("#")[0])
            wrong += [f"symphony {name} {option}" for option in given if option not in known | {"--help"}]
    assert wrong == []


def test_every_command_is_in_the_table_of_commands() -> None:
    table = (CHECKOUT / "README.md").read_text().partition("## Commands")[2].partition("\n\nAll of them")[0]
    assert [name for name in COMMANDS if f"| `symphony {name}" not in table] == []


def test_everything_that_a_program_may_import_is_described() -> None:
    page = (CHECKOUT / "docs" / "api.md").read_text()
    missing = [
        name for name in symphony.__all__ if f"`{name}`" not in page and f":: symphony.{name}\n" not in page
    ]
    assert missing == ["__version__"], "docs/api.md describes what symphony exports"


def test_the_files_that_the_architecture_names_exist() -> None:
    named = [
        code
        for code in code_of(CHECKOUT / "docs" / "architecture.md")
        if re.fullmatch(r"[\w/]+/[\w.]*", code)
    ]
    assert len(named) > 20
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_every_check_of_the_doctor_is_in_its_table() -> None:
    page = (CHECKOUT / "docs" / "operations.md").read_text()
    table = page.partition("| check | because |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    source = (CHECKOUT / "symphony" / "host" / "doctor.py").read_text()
    assert sorted(told) == sorted(set(re.findall(r"Finding\(\s*\"([^\"]+)\"", source)))
