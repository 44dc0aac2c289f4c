"""The closed set of error kinds, and its page in the docs."""

from pathlib import Path

import pytest

from pipeline.error_kinds import ERROR_KINDS, as_markdown

DOCS = (Path(__file__).parents[2] / "docs/error-kinds.md").read_text(encoding="utf-8")


def test_the_docs_have_the_table_of_the_code() -> None:
    """docs/error-kinds.md: replace its table by the output of pipeline.error_kinds.as_markdown()."""
    assert as_markdown() in DOCS


@pytest.mark.parametrize("kind", ERROR_KINDS.values(), ids=list(ERROR_KINDS))
def test_each_kind_has_cause_and_remedy(kind) -> None:
    """Cause and remedy are there, fit a table, and what is tried again at once may succeed later."""
    assert kind.cause
    assert kind.remedy
    assert "|" not in kind.cause + kind.remedy
    assert kind.retriable or not kind.repeated
