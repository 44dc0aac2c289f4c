"""The README speaks of what there is."""

from pathlib import Path

import pytest

from pipeline.config import Config, known_keys
from pipeline.error_kinds import ERROR_KINDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", known_keys())
def test_every_configuration_key_is_there_with_its_default(key: str) -> None:
    """A row of the table for each key, with default and whether it is pinned."""
    default: object = Config()
    for name in key.split("."):
        default = getattr(default, name)
    shown = "none" if default is None else list(default) if isinstance(default, tuple) else default
    pinned = "result" if key in Config().pinned() else "operation"
    assert f"| `{key}` | {shown} | *{pinned}* ·" in README


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_every_error_kind_is_named(kind: str) -> None:
    """The closed set is closed in the README too."""
    assert f"`{kind}`" in README
