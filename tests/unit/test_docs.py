"""The documentation: the site builds without a complaint, and no page links to nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import CHECKOUT, anchors, broken_links, pages

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


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
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


def test_the_site_needs_nothing_from_the_network(tmp_path: Path) -> None:
    assert build(CHECKOUT / "docs", tmp_path).returncode == 0
    for page in (tmp_path / "html").glob("*.html"):
        loaded = [line for line in page.read_text().splitlines() if "<script" in line or "<link" in line]
        assert loaded
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
