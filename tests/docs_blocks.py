"""Code blocks of README, CONTRIBUTING and docs/: found, run in the order of their page, and what they print compared.

A comment in front of a block says what is not plain from its language:
`<!-- not run: REASON -->`, `<!-- file: NAME -->` for a file that later blocks use, `<!-- prints -->` for what the block
before it prints.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

from ramcore.bundle import demo_bundle

ROOT = Path(__file__).parents[1]
WITH_RAY = ("README.md", "docs/tutorial.md", "docs/how-to/resume-and-repair.md", "docs/how-to/search.md")
"""Pages whose commands start Ray, or need the run of one that does: tests/integration runs them."""
_RUN = ("sh", "python", "sql")
_COMMENT = re.compile(r"<!--\s*(not run|file|prints)(?::\s*(.*?))?\s*-->", re.DOTALL)
_LIMIT_S = 300


@dataclass(frozen=True)
class Block:
    """One fenced block. kind: "run", "file", "prints", "not run", or "" for none of these; argument: reason or name."""

    page: str
    line: int
    language: str
    text: str
    kind: str
    argument: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page with code blocks that readers may take for commands."""
    return [
        "README.md",
        "CONTRIBUTING.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    ]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order; also those in lists and quotes."""
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type != "fence":
            continue
        said = _COMMENT.search(before.content) if before is not None and before.type == "html_block" else None
        language = token.info.strip()
        kind = said[1] if said else "run" if language in _RUN else ""
        line = token.map[0] + 1 if token.map else 0
        found.append(Block(page, line, language, token.content, kind, (said[2] or "") if said else ""))
    return found


@dataclass
class Page:
    """Runs the blocks of a page in one folder, where `photos/` holds the demo pictures.

    `ramfleet`, `python` and `make` are those of the working tree; environment: further variables.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    printed: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        pictures = demo_bundle().parent / "pictures"
        shutil.copytree(pictures, self.folder / "photos", ignore=shutil.ignore_patterns("*.md"))
        tools = self.folder.parent / f"{self.folder.name}-bin"
        tools.mkdir()
        make = f"{shutil.which('make')} --no-print-directory --directory={ROOT} STAMP=Makefile BIN={tools}"
        _program(tools / "python", f'{sys.executable} "$@"')
        _program(tools / "ramfleet", f'{sys.executable} -m jobs.main "$@"')
        _program(tools / "make", f'{make} DEMO_RUN="$PWD/demo-run" "$@"')
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **self.environment}

    def assert_runs(self, block: Block) -> None:
        """Do what a block says; raises AssertionError with all that it printed."""
        if block.kind == "file":
            (self.folder / block.argument).write_text(block.text, encoding="utf-8")
        elif block.kind == "prints":
            missing = [line for line in block.text.splitlines() if _blurred(line) not in _blurred(self.printed)]
            assert not missing, f"{block}: not printed:\n" + "\n".join(missing) + f"\nbut:\n{self.printed}"
        elif block.kind == "run":
            self._run(block)

    def _run(self, block: Block) -> None:
        command = {
            "sh": ["bash", "-euo", "pipefail", "-c", block.text],
            "python": [sys.executable, "-c", block.text],
            "sql": [sys.executable, "-c", f"import duckdb; print(duckdb.sql({block.text!r}))"],
        }[block.language]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
            check=False,
        )
        self.printed = done.stdout.decode().replace(f"{self.folder}/", "")
        assert done.returncode == 0, f"{block}: exit {done.returncode}\n{self.printed}"


def _program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
    path.chmod(0o755)


def _blurred(text: str) -> str:
    """Without what differs from run to run: numbers, and the widths that depend on them."""
    return re.sub(r"\s+", " ", re.sub(r"[─]+", "─", re.sub(r"\d[\d.,]*", "0", text))).strip()
