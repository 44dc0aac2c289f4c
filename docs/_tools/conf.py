"""The site of docs/: Sphinx with MyST, so that pages stay plain Markdown. `make docs` builds it.

What pages link to outside of docs/ comes into the site as highlighted source; a link `../pipeline/tag.py#tag` leads to
the line of that function or class.
"""

import ast
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]

# ---- what Sphinx reads ----

project = html_title = "RamFleet"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser"]
exclude_patterns = ["_tools"]
myst_heading_anchors = 4
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_use_index = html_show_copyright = False

_CONTENTS = {
    "": ["tutorial"],
    "How to": [
        *("how-to/mixed-and-spot-fleet", "how-to/own-tags", "how-to/resume-and-repair", "how-to/cost-planning"),
        *("clusters", "how-to/search", "how-to/explore"),
    ],
    "Reference": [
        *(
            "reference/cli",
            "reference/config",
            "reference/schemas",
            "reference/errors",
            "reference/python",
            "events",
            "metrics",
        ),
    ],
    "Background": ["architecture", "performance", "costs", "quote", "benchmark-167-nodes"],
}
"""Pages by heading; a page that is in none of them is an error."""

# ---- links to what is not in docs/ ----

LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((\.\./[^)#\s]+)(?:#([\w.]+))?\)")
_FORMAT = HtmlFormatter(linenos="inline", lineanchors="line", full=True, nobackground=True)


def outside(page: str, target: str) -> str | None:
    """The linked file's path below the repository; None for links within docs/. page: its path below docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def line_of(path: str, name: str) -> int:
    """Where a function or class begins in a Python file; methods are `Class.method`. Raises LookupError."""
    node: Any = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        node = next((each for each in node.body if isinstance(each, named) and each.name == part), None)
        if node is None:
            raise LookupError(f"{path} has no {name}")
    line: int = node.lineno
    return line


class _Sources:
    """Notes which files pages link to, and writes them beside the site's pages."""

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def read(self, _: Sphinx, page: str, text: list[str]) -> None:
        def moved(link: re.Match[str]) -> str:
            path = outside(page, link[2])
            if path is None:
                return link[0]
            self._paths.add(path)
            line = f"#line-{line_of(path, link[3])}" if link[3] else ""
            return f'<a href="{"../" * page.count("/")}source/{path}.html{line}">{link[1]}</a>'

        text[0] = LINK.sub(moved, text[0])
        if page == "index":
            text[0] += "".join(map(_toctree, _CONTENTS, _CONTENTS.values()))

    def write(self, app: Sphinx, failure: Exception | None) -> None:
        for path in () if failure else self._paths:
            text = (ROOT / path).read_text(encoding="utf-8")
            page = Path(app.outdir, "source", f"{path}.html")
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(highlight(text, get_lexer_for_filename(path), _FORMAT), encoding="utf-8")


def _toctree(caption: str, pages: list[str]) -> str:
    options = f":caption: {caption}\n:hidden:\n" if caption else ":hidden:\n"
    return "\n```{toctree}\n" + options + "\n" + "\n".join(pages) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    sources = _Sources()
    app.connect("source-read", sources.read)
    app.connect("build-finished", sources.write)
