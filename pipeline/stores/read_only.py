"""The mark of a run that was cleaned: its tables are all that is left of it."""

import json
from typing import Any

from pipeline.errors import ReadOnlyError
from pipeline.stores.run_store import RunStore

CLEANED = "cleaned.json"
"""There as soon as `ramfleet clean` begins to remove, so that the run is read-only also if that is killed."""


def cleaned_record(store: RunStore) -> dict[str, Any] | None:
    """What `clean` wrote down; None for a run that was not cleaned."""
    try:
        record: dict[str, Any] = json.loads(store.read(CLEANED))
    except FileNotFoundError:
        return None
    return record


def refuse_if_cleaned(store: RunStore) -> None:
    """Raises ReadOnlyError if the run was cleaned."""
    if store.exists(CLEANED):
        raise ReadOnlyError(
            f"{store.root} is read-only: its chunks were removed by `ramfleet clean`. Its tables stay; "
            "to tag again, name another --out (with --base it takes over what is unchanged)"
        )
