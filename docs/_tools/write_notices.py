"""Writes NOTICES.md: what RamFleet is built on, with licences as the installed packages state them."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NOTICES = ROOT / "NOTICES.md"
_OWN_TOOLS = ("test", "dev", "docs")
"""Extras that only developers install."""
_TEXT = """# What RamFleet uses

RamFleet is under the Apache License 2.0 (LICENSE). Its wheel holds no code of others. It holds four photographs in the
public domain or under CC0, whose authors `ramcore/demo/pictures/NOTICE.md` names; all other pictures and the weights of
the demo model are made by the project itself.

Installing it brings these packages, each under its own licence, as its metadata states it; what they bring themselves
is not listed. PyTorch's wheels for Linux bring NVIDIA's CUDA libraries, which are under NVIDIA's licences.
`make reference` writes this page.

"""


def notices() -> str:
    """The whole page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    lines = ["| package | licence | comes with | home |", "|---|---|---|---|"]
    seen = set()
    for group, requirements in groups.items():
        for name in (Requirement(line).name for line in requirements):
            if group not in _OWN_TOOLS and name not in seen:
                seen.add(name)
                when = f"`ramfleet[{group}]`" if group else "always"
                lines.append(f"| {name} | {licence(name)} | {when} | {home(name)} |")
    return _TEXT + "\n".join(lines) + "\n"


def licence(package: str) -> str:
    """Its SPDX expression, else the line or classifier that its metadata has in place of one."""
    metadata = importlib.metadata.metadata(package)
    classifiers = [name.split(" :: ")[-1] for name in metadata.get_all("Classifier", []) if name.startswith("License")]
    stated = [metadata.get("License-Expression"), metadata.get("License"), *classifiers]
    short = [text for text in stated if text and "\n" not in text and len(text) < 200]
    if not short:
        raise SystemExit(f"{package}: its metadata states no licence; look it up, and say it in {Path(__file__).name}")
    return short[0]


def home(package: str) -> str:
    """Its page, if its metadata names one."""
    metadata = importlib.metadata.metadata(package)
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    named = {name.lower(): url for name, url in urls.items()}
    found = [metadata.get("Home-page"), *(named.get(name) for name in ("homepage", "repository", "source"))]
    return next((url for url in found if url), "its metadata names none")


if __name__ == "__main__":
    NOTICES.write_text(notices(), encoding="utf-8")
    sys.stdout.write(f"{NOTICES.name}\n")
