"""What a run is pinned to by its plan: input, limit, bundle and result configuration. A difference is refused."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import PinnedError
from pipeline.fetching.redaction import without_credentials
from pipeline.plan import Plan

_AUTO_MEANS_AS_PLANNED = ("plan.chunk_rows", "model.dtype", "output.captions")
"""Keys whose "auto" is resolved when a run is planned, and then stands for what was found."""


def pins(config: Config, input_uri: str, limit: int | None, bundle_hash: str) -> dict[str, Any]:
    """All that decides what a run contains, by key, as JSON knows it."""
    return {"INPUT": absolute(input_uri), "--limit": limit, "bundle": bundle_hash, **config.pinned()}


def pinned_tree(plan: Plan) -> dict[str, dict[str, Any]]:
    """The result keys that a run was planned with, as sections of a configuration."""
    tree: dict[str, dict[str, Any]] = {}
    for key in Config().pinned():
        section, name = key.split(".")
        if key in plan.pinned:
            tree.setdefault(section, {})[name] = plan.pinned[key]
    return tree


def absolute(input_uri: str) -> str:
    """INPUT independent of the working directory, and without its signature, which is another one at a resume."""
    return without_credentials(input_uri) if "://" in input_uri else str(Path(input_uri).absolute())


def check_pins(plan: Plan, asked: dict[str, Any], out: str) -> None:
    """Raises PinnedError that names every key asked for with another value than the run was planned with."""
    differences = [
        f"{key}: the run was planned with {plan.pinned.get(key)!r}, now asked with {value!r}"
        for key, value in asked.items()
        if value != plan.pinned.get(key) and not (value == "auto" and key in _AUTO_MEANS_AS_PLANNED)
    ]
    if differences:
        remedy = "repeat the command as it was, or choose another --out"
        raise PinnedError("\n".join([f"--out {out} holds another run; {remedy}", *differences]))
