"""Hooks of MkDocs: what pages link to outside of docs/ comes into the site as highlighted source.

A link `../pipeline/tag.py#tag` leads to the line of that function or class.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((\.\./[^)#\s]+)(?:#([\w.]+))?\)")
_PYGMENTS = {"linenos": "inline", "lineanchors": "line", "full": True}


def outside(page: str, target: str) -> str | None:
    """The linked file's path below the repository; None for links within docs/. page: its path below docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def line_of(path: str, name: str) -> int:
    """Where a function or class begins in a Python file; methods are `Class.method`. Raises LookupError."""
    tree: Any = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        tree = next((node for node in tree.body if isinstance(node, named) and node.name == part), None)
        if tree is None:
            raise LookupError(f"{path} has no {name}")
    line: int = tree.lineno
    return line


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to."""
    linked = set()
    for page in files.documentation_pages():
        for target, _ in LINK.findall(page.content_string):
            linked.add(outside(page.src_uri, target))
    for path in sorted(filter(None, linked)):
        files.append(File.generated(config, f"source/{path}.html", content=_source(path)))
    return files


def _source(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    page: str = highlight(text, get_lexer_for_filename(path), HtmlFormatter(title=path, **_PYGMENTS))
    return page


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links there."""

    def moved(link: re.Match[str]) -> str:
        path = outside(page.file.src_uri, link[1])
        if path is None:
            return link[0]
        up = "../" * page.file.src_uri.count("/")
        return f"]({up}source/{path}.html{f'#line-{line_of(path, link[2])}' if link[2] else ''})"

    return LINK.sub(moved, markdown)
