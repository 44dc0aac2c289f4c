"""`ramfleet clean`: the chunks of a finished run are removed; its tables are what is left, and it is read-only."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import IncompleteError
from pipeline.stores.read_only import CLEANED, cleaned_record
from pipeline.stores.run_store import RunStore
from pipeline.verify import verify

_FOLDERS = ("chunks/", "carried/", "locks/")
_THREADS = 16


@dataclass(frozen=True)
class Cleaned:
    """What was removed."""

    objects: int
    bytes: int


def clean(store: RunStore) -> Cleaned:
    """Remove the chunks of a run after its published parts proved to be complete and readable.

    Killed and run again, it goes on. Raises IncompleteError, with all that is wrong, before anything is removed.
    """
    if cleaned_record(store) is None:
        with store.alone("finalize"):
            found = verify(store)
            if found.faults:
                raise IncompleteError("\n".join([f"{store.root} is not cleaned; it has faults:", *found.faults]))
            record = {"cleaned_at": datetime.now(UTC).isoformat(timespec="seconds"), "rows_checksum": found.checksum}
            store.create(CLEANED, json.dumps(record).encode())
    entries = [entry for folder in _FOLDERS for entry in store.entries(folder)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="clean") as pool:
        for _ in pool.map(store.delete, (entry.name for entry in entries)):
            pass
    return Cleaned(len(entries), sum(entry.size for entry in entries))
