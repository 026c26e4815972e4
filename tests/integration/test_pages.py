"""What the pages tell their readers to do works, and prints what they show."""

from __future__ import annotations

import pytest

from tests.support.pages import CHECKOUT
from tests.support.programs import program
from tests.support.walkthrough import Walkthrough

LEFT_OUT = {
    "README.md": [
        "`make test` is what runs these blocks, and `make run` ends only by Ctrl-C",
        "it installs for the user; a test of its own installs the wheel into a fresh environment",
        "a picture",
        "a picture",
    ],
    "docs/tutorial.md": [],
    "docs/api.md": [],
    "docs/client-identity.md": [],
    "docs/configuration.md": [],
    "docs/faq.md": [],
    "docs/migration.md": ["ghostunnel has no command that only checks"],
}
"""The blocks that are not run, by page; one more is a decision to be made here as well."""


@pytest.mark.parametrize("page", LEFT_OUT)
def test_every_block_of_the_page_is_as_it_says(page: str) -> None:
    for name in ("bash", "curl", "openssl"):
        program(name)
    with Walkthrough(CHECKOUT / page) as walkthrough:
        walkthrough.follow()
    assert walkthrough.ran > 0
    assert [reason for _, reason in walkthrough.left_out] == LEFT_OUT[page]
    if walkthrough.missing:
        pytest.skip(f"without {', '.join(sorted(walkthrough.missing))} a part of {page} could not be tried")
