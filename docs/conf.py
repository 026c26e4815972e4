"""How Sphinx makes the site of these pages: ``make docs``. Nothing is loaded from the network, nor by the site."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from symphony.version import __version__

project = "Symphony"
author = "the Symphony project"
version = release = __version__
html_title = f"Symphony {__version__}"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["plots"]
myst_heading_anchors = 3  # the anchors that GitHub gives to headings, so that a link is good in both places
nitpicky = True  # with -W: a reference to nothing ends the build
nitpick_ignore_regex = [("py:.*", ".*")]  # docstrings name what is not on these pages
autodoc_typehints_format = "short"
maximum_signature_line_length = 80


class FilesOfTheRepository(SphinxTransform):
    """Links to files outside of docs/ become downloads; Sphinx would look for pages of these names."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Replace the links of one page. Files that do not exist are left to Sphinx, which complains."""
        pages = Path(self.env.srcdir)
        for link in list(self.document.findall(pending_xref)):
            if link.get("reftype") != "myst":
                continue
            target = link["reftarget"] + (".md" if link.get("refdomain") == "doc" else "")
            # An included page is somewhere else, and its links with it.
            bases = (Path(link.source or "").parent, pages)
            file = next((path for base in bases if (path := (base / target).resolve()).is_file()), None)
            if file is not None and not file.is_relative_to(pages):
                name = "/" + os.path.relpath(file, pages)
                link.replace_self(
                    download_reference("", "", *link.children, reftarget=name, refdoc=self.env.docname)
                )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_transform(FilesOfTheRepository)
