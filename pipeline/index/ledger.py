"""What an index has been fed: which images, in which state, from which objects of the run. SQLite, on disk.

A back end and its ledger are two stores, unless they are one file. So that a process may be killed at any time, the
images of a batch are noted as pending before the back end takes them in, and are known for certain afterwards only.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

FORMAT_VERSION = 2
"""Of ledgers and of what back ends write; an index of another version is refused."""

_BUSY_TIMEOUT_S = 60.0
_CACHE_KIB = 131_072
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS units (unit INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, "
    "done INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS fed (image_id TEXT PRIMARY KEY, doc INTEGER NOT NULL, hash INTEGER NOT NULL, "
    "unit INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pending (image_id TEXT PRIMARY KEY, doc INTEGER NOT NULL) WITHOUT ROWID",
)

UNSURE = -1
"""The hash of an image of which a back end may or may not have the latest state."""


def connect(path: Path, write: bool) -> sqlite3.Connection:
    """A connection to a ledger. Raises InputError for a file that is none."""
    # Also to read: what a killed process left half written, the next one to look rolls back.
    mode = "rwc" if write else "rw"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=_BUSY_TIMEOUT_S,
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA query_only = {not write}")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise InputError(f"{path} is no index: {error}; `ramfleet index RUN --out {path}` makes one") from error
    return connection


class Ledger:
    """Use within one process at a time. Nothing is on disk before `commit`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def create(self) -> None:
        """Make the tables that are not there yet."""
        for statement in _SCHEMA:
            self._db.execute(statement)

    def begin(self) -> None:
        """Start a transaction, alone among writers."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """All since `begin` is on disk when this returns."""
        self._db.execute("COMMIT")

    def get(self, key: str) -> Any:
        """A JSON value, None if it was never put."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value, ensure_ascii=False)))

    def unit(self, key: str) -> tuple[int, bool]:
        """The number of a unit, a new one if need be, and whether it is done."""
        self._db.execute("INSERT OR IGNORE INTO units (key, done) VALUES (?, 0)", (key,))
        number, done = self._db.execute("SELECT unit, done FROM units WHERE key = ?", (key,)).fetchone()
        return int(number), bool(done)

    def mark_done(self, units: Iterable[int]) -> None:
        """All images of these units are fed."""
        self._db.executemany("UPDATE units SET done = 1 WHERE unit = ?", ((unit,) for unit in units))

    def mark_undone(self, units: Iterable[int]) -> None:
        """Images of these units have gone to others: who wants the units back has to feed them again."""
        self._db.executemany("UPDATE units SET done = 0 WHERE unit = ?", ((unit,) for unit in units))

    def known(self, image_ids: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """(doc, hash, unit) of those images that were fed before."""
        rows = self._db.execute(
            "SELECT image_id, doc, hash, unit FROM fed WHERE image_id IN (SELECT value FROM json_each(?))",
            (json.dumps(image_ids),),
        )
        return {image_id: state for image_id, *state in rows}

    def next_doc(self) -> int:
        """The number of the next new document; numbers are never used again while the ledger lives."""
        return int(self.get("next_doc") or 1)

    def count(self) -> int:
        """Documents in the index."""
        return int(self._db.execute("SELECT count(*) FROM fed").fetchone()[0])

    def record(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """Note (image_id, doc, hash, unit)."""
        self._db.executemany("INSERT OR REPLACE INTO fed VALUES (?, ?, ?, ?)", rows)

    def move(self, rows: Iterable[tuple[int, str]]) -> None:
        """Note (unit, image_id) of images that are in the index as they are."""
        self._db.executemany("UPDATE fed SET unit = ? WHERE image_id = ?", rows)

    def expect(self, rows: Iterable[tuple[str, int]]) -> None:
        """Note (image_id, doc) of images that a back end is about to take in or drop."""
        self._db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", rows)

    def settle(self) -> None:
        """The back end has all that was expected."""
        self._db.execute("DELETE FROM pending")

    def recover(self) -> None:
        """After a process that was killed: what it expected is unsure, and is fed again or removed."""
        self._db.execute(
            "INSERT OR REPLACE INTO fed SELECT p.image_id, p.doc, ?, coalesce(f.unit, 0) "
            "FROM pending p LEFT JOIN fed f ON f.image_id = p.image_id",
            (UNSURE,),
        )
        self._db.execute("UPDATE units SET done = 0 WHERE unit IN (SELECT unit FROM fed WHERE hash = ?)", (UNSURE,))
        self._db.execute("DELETE FROM pending")
        highest = self._db.execute("SELECT coalesce(max(doc), 0) + 1 FROM fed").fetchone()[0]
        self.put("next_doc", max(int(highest), self.next_doc()))

    def drop_units(self, keep: Iterable[int]) -> None:
        """Forget all units but these."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS kept (unit INTEGER PRIMARY KEY)")
        self._db.execute("DELETE FROM temp.kept")
        self._db.executemany("INSERT INTO temp.kept VALUES (?)", ((unit,) for unit in keep))
        self._db.execute("DELETE FROM units WHERE unit NOT IN (SELECT unit FROM temp.kept)")

    def stale(self, most: int) -> Iterator[list[tuple[str, int]]]:
        """(image_id, doc) of images of forgotten units, so many at a time; to be forgotten before the next come."""
        query = "SELECT image_id, doc FROM fed WHERE unit NOT IN (SELECT unit FROM units) LIMIT ?"
        while rows := self._db.execute(query, (most,)).fetchall():
            yield rows

    def forget(self, image_ids: Iterable[str]) -> None:
        """These images are not in the index any more."""
        self._db.executemany("DELETE FROM fed WHERE image_id = ?", ((image_id,) for image_id in image_ids))
