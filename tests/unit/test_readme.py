"""The README speaks of what there is."""

from pathlib import Path

import pytest

from pipeline.error_kinds import ERROR_KINDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_every_error_kind_is_named(kind: str) -> None:
    """The closed set is closed in the README too."""
    assert f"`{kind}`" in README
