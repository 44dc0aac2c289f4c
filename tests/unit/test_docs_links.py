"""Links of README, CONTRIBUTING and docs/ lead to what is there; the site builds without a warning."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from docs_blocks import ROOT, pages
from markdown_it import MarkdownIt

if os.environ.get("CI"):
    import conf
else:
    conf = pytest.importorskip("conf", reason="docs/_tools/conf.py needs Sphinx: pip install 'ramfleet[docs]'")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def links(page: str) -> list[str]:
    """Targets of all links and pictures of a page, but those to the web."""
    found = []
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target and not re.match(r"[a-z]+:", str(target)):
                found.append(str(target))
    return found


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    titles = [inline.content for token, inline in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "target"), [(page, target) for page in pages() for target in links(page)])
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    """The file is there; an anchor is a heading of a page, or a function or class of a module."""
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    assert path.exists()
    if anchor and path.suffix == ".py":
        assert conf.line_of(str(path.resolve().relative_to(ROOT)), anchor) > 0
    elif anchor:
        assert anchor in anchors(path)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:ramcore|pipeline|jobs|tests|infra|docs)/[\w./-]+)`", README)))
)
def test_a_file_that_the_readme_names_is_there(name: str) -> None:
    """Renaming it without the README is noticed."""
    assert (ROOT / name).exists()


def test_a_wrong_name_of_a_function_is_noticed() -> None:
    """The anchors of sources are looked up, not passed on."""
    with pytest.raises(LookupError, match="has no tagged"):
        conf.line_of("pipeline/tag.py", "tagged")


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    """As `make docs` does it, warnings are errors; no page loads anything from elsewhere; sources are beside them."""
    build = ["-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", "docs/_tools", "-d", str(tmp_path / "trees")]
    command = [sys.executable, *build, "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        )
        assert not [url for url in loaded if url.startswith(("http:", "https:", "//"))], page
    assert "line-" in (tmp_path / "site/source/pipeline/tag.py.html").read_text(encoding="utf-8")
