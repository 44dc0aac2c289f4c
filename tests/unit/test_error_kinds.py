"""The closed set of error kinds."""

import pytest

from pipeline.error_kinds import ERROR_KINDS


@pytest.mark.parametrize("kind", ERROR_KINDS.values(), ids=list(ERROR_KINDS))
def test_each_kind_has_cause_and_remedy(kind) -> None:
    """Cause and remedy are there, fit a table, and what is tried again at once may succeed later."""
    assert kind.cause
    assert kind.remedy
    assert "|" not in kind.cause + kind.remedy
    assert kind.retriable or not kind.repeated
