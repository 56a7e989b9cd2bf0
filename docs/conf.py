"""Sphinx configuration."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import torchtune

project = "torchtune"
author = "The torchtune maintainers"
copyright = "2026, the torchtune maintainers"
version = release = torchtune.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_parser"]
autosummary_generate = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"torchtune {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
exclude_patterns = ["_build"]

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "pictures")]


class Conversation(SphinxDirective):
    """``{conversation} NAME``: the conversation of the pictures, in a chat format, what is trained on green ground."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from format_pages import coloured
        from masked import segments

        return [nodes.raw("", coloured(segments(self.arguments[0])), format="html")]


CODE = re.compile(r'(<code class="[^"]*\bliteral\b[^"]*">)(.*?)(</code>)', re.S)
TEXT = re.compile(r"(?<=>)[^<>]+(?=<)")


def break_names(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Long names in the text may break after ``_``, ``/``, ``::`` and ``.``, not in the middle of a word."""

    def breakable(code: re.Match[str]) -> str:
        inner = TEXT.sub(lambda text: re.sub(r"(?<=\w)(_|/|::|\.|=)(?=\w)", r"\1<wbr>", text[0]), f">{code[2]}<")
        return code[1] + inner[1:-1] + code[3]

    if "body" in context:
        context["body"] = CODE.sub(breakable, context["body"])


def leave_out_docstrings_of_builtins(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """A constant has its name and its value, not what Python says of all texts or numbers."""
    if what == "data" and isinstance(value, (str, int, tuple, set, dict)):
        lines.clear()


def setup(app: Sphinx) -> None:
    """Writes the pages of the chat formats and of the settings, from the code itself, before Sphinx looks for pages."""
    from format_pages import write_pages
    from setting_pages import write_page

    # The pages say what a format leaves out; its notices would hide Sphinx's own warnings.
    logging.getLogger("torchtune.data.formats").setLevel(logging.ERROR)
    write_pages(Path(__file__).parent / "formats")
    write_page(Path(__file__).parent)
    app.add_directive("conversation", Conversation)
    app.connect("html-page-context", break_names)
    app.connect("autodoc-process-docstring", leave_out_docstrings_of_builtins)
