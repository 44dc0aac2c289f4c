"""What is released: the wheel and sdist as a stranger gets them, in an environment that has nothing else."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import write_notices
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from runs import assert_adds_up

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("ramcore", "pipeline", "jobs")
BESIDE = {"LICENSE", "NOTICES.md"}

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def ran(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What it printed; it has to end well. The project in the working tree is out of its reach."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> set[str]:
    """Every file of the packages that git knows."""
    return set(ran("git", "ls-files", *PACKAGES, cwd=ROOT).splitlines())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the sdist and of the wheel, which is built from the sdist. Tracked files only are built from."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ran("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    ran(sys.executable, "-m", "build", "--installer", "uv", "--outdir", out, tree, cwd=out)
    return out


@pytest.fixture(scope="module")
def fresh(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's bin, with the wheel installed, and of all else that is here only what the wheel asks for."""
    folder = tmp_path_factory.mktemp("fresh")
    ran(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    install = ("-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", python)
    ran(sys.executable, *install, *dist.glob("*.whl"), cwd=folder)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    for name in needed(PROJECT["dependencies"]):
        link(importlib.metadata.distribution(name), packages)
    return python.parent


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of all distributions that these bring along here."""
    found: dict[str, set[str]] = {}
    asked = [Requirement(line) for line in requirements]
    while asked:
        requirement = asked.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras} - found.get(name, set())
        if not extras:
            continue
        found.setdefault(name, set()).update(extras)
        for line in importlib.metadata.distribution(name).requires or ():
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                asked.append(further)
    return set(found)


def link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Make an installed distribution importable from another environment too, without a copy of gigabytes."""
    here = Path(str(distribution.locate_file("")))
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        with suppress(FileExistsError):  # a namespace that distributions share: nvidia
            (packages / top).symlink_to(here / top)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(dist: Path) -> None:
    """Demo bundle and pictures, tables, templates and py.typed as git has them; beside them only its own metadata."""
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == tracked()
    assert {Path(name).name for name in metadata if "/licenses/" in name} == BESIDE
    for package in PACKAGES:
        assert f"{package}/py.typed" in names


def test_the_sdist_holds_them_too(dist: Path) -> None:
    """With what it is built by."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() | BESIDE | {"pyproject.toml", "README.md"} <= names


def test_the_command_says_its_version(fresh: Path, tmp_path: Path) -> None:
    """That of pyproject.toml, from a folder that has nothing to do with the project."""
    assert ran(fresh / "ramfleet", "--version", cwd=tmp_path) == f"ramfleet {PROJECT['version']}\n"


def test_its_help_names_the_commands(fresh: Path, tmp_path: Path) -> None:
    """Among them the main one."""
    assert " tag " in ran(fresh / "ramfleet", "--help", cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"), [("ramfleet ta", "tag"), ("ramfleet tag x --ba", "--base"), ("ramfleet model pu", "pull")]
)
def test_the_shell_completes(fresh: Path, tmp_path: Path, words: str, expected: str) -> None:
    """Commands, options and commands of `model`, as bash asks for them."""
    asked = {"_RAMFLEET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert expected in ran(fresh / "ramfleet", cwd=tmp_path, **asked).split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(fresh: Path, tmp_path: Path, shell: str) -> None:
    """As a script for that shell; `--install-completion` puts the same in place."""
    assert "_RAMFLEET_COMPLETE" in ran(fresh / "ramfleet", "--show-completion", shell, cwd=tmp_path)


def test_the_demo_runs_from_the_wheel(fresh: Path, tmp_path: Path) -> None:
    """Model, pictures, Ray and report: a whole run outside of the repository."""
    where = "from ramcore.bundle import demo_bundle; print(demo_bundle().parent / 'pictures')"
    pictures = Path(ran(fresh / "python", "-c", where, cwd=tmp_path).strip())
    assert fresh.parent in pictures.parents
    ran(fresh / "ramfleet", "tag", pictures, "--out", "run", cwd=tmp_path)
    assert_adds_up(tmp_path / "run", sum(path.suffix in (".jpg", ".png") for path in pictures.iterdir()))
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


def test_what_is_installed_agrees(fresh: Path, tmp_path: Path) -> None:
    """No package lacks what it needs, or has it in a version that it does not work with."""
    said = ran(sys.executable, "-m", "pip", "--python", fresh / "python", "check", cwd=tmp_path)
    assert said == "No broken requirements found.\n"


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_extras_resolve(extra: str, tmp_path: Path) -> None:
    """Each by itself, to versions that fit together, on the oldest Python that is admitted."""
    resolve = ("-m", "uv", "pip", "compile", "--quiet", "--python-version", "3.11", "--extra", extra)
    ran(sys.executable, *resolve, ROOT / "pyproject.toml", "--output-file", tmp_path / "pins.txt", cwd=tmp_path)
    assert "ray==" in (tmp_path / "pins.txt").read_text()


def test_the_notices_name_what_is_used() -> None:
    """NOTICES.md is what `make reference` writes: every package that installing brings, with the licence it states."""
    assert write_notices.notices() == write_notices.NOTICES.read_text(encoding="utf-8")
