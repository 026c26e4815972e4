"""The project's Markdown pages: what they link to, and where a link may go."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

CHECKOUT = Path(__file__).resolve().parents[2]


def pages() -> list[Path]:
    """Every page that somebody may read where the repository is shown."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("ops/**/*.md")]
    return sorted(found)


class Link(NamedTuple):
    """One link or picture; `line` counts from 1 and is where its paragraph begins."""

    line: int
    target: str


def broken_links(page: Path) -> Iterator[str]:
    """What is wrong with a page's links, one line each. Addresses on the network are not asked."""
    for link in links(page):
        split = urlsplit(link.target)
        where = f"{page.relative_to(CHECKOUT) if page.is_relative_to(CHECKOUT) else page}:{link.line}"
        if split.scheme:
            if split.scheme not in ("https", "mailto"):
                yield f"{where}: {link.target}: {split.scheme} is no way to a page"
            continue
        file = (page.parent / unquote(split.path)).resolve() if split.path else page
        if not file.exists():
            yield f"{where}: {link.target}: there is no such file"
        elif split.fragment and (file.suffix != ".md" or split.fragment not in anchors(file)):
            yield f"{where}: {link.target}: there is no such heading"


def links(page: Path) -> Iterator[Link]:
    """All links and pictures of a page, without those in code."""
    for token in _tokens(page):
        for part in token.children or ():
            target = part.attrGet("href") if part.type == "link_open" else part.attrGet("src")
            if isinstance(target, str):
                yield Link(token.map[0] + 1 if token.map else 0, target)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    tokens = _tokens(page)
    found: set[str] = set()
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inline.children or ())
            name = plain = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            number = 0
            while name in found:
                number += 1
                name = f"{plain}-{number}"
            found.add(name)
    return found


def code_of(page: Path) -> Iterator[str]:
    """Every block and every span of code."""
    for token in _tokens(page):
        if token.type in ("fence", "code_block"):
            yield token.content
        for part in token.children or ():
            if part.type == "code_inline":
                yield part.content


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())
