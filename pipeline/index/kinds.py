"""The kinds of index by name, and where an index is."""

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, StoreError
from pipeline.fetching.redaction import redacted
from pipeline.index.backend import Reader, Writer
from pipeline.index.feed import check_format
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.stores.local_store import LocalStore

KINDS = ("sqlite", "duckdb", "tantivy", "lance", "postgres", "opensearch")
SERVERS = {"postgres": "postgresql://USER@HOST/DATABASE"}
STATE = "state.sqlite"
"""The ledger of an index that is a folder."""


def default_out(run: str, kind: str) -> str:
    """Where the index of a run is if nothing else is said: in its folder. Raises InputError for a run in a bucket."""
    if kind in SERVERS:
        raise InputError(f"--to {kind} needs the address of a server: name it with --out {SERVERS[kind]}")
    if "://" in run:
        raise InputError(f"{run} is in a bucket, an index is on a local disk: name it with --out")
    return str(Path(run) / f"index.{kind}")


@contextmanager
def open_writer(kind: str, out: str) -> Iterator[Writer]:
    """The index to be fed, alone: another feed of the same index waits. Raises InputError if it cannot be made."""
    if kind == "postgres":
        from pipeline.index.postgres_index import answering

        with answering(), closing(_postgres_writer(out)) as writer:
            yield writer
        return
    if "://" in out:
        raise InputError(
            f"--out {redacted(out)}: an index of the kind {kind} is on a local disk: name a file or folder there, "
            "or another --to"
        )
    path = Path(out)
    with LocalStore(path.absolute().parent).alone(f"{path.name}.feed"):
        try:
            with closing(_writer(kind, path)) as writer:
                yield writer
        except sqlite3.Error as error:
            raise StoreError(f"--out {out}: {error}; when that is mended, run the command again to go on") from error


def _postgres_writer(address: str) -> Writer:
    from pipeline.index.postgres_index import SCHEMES, PostgresWriter

    if not address.startswith(SCHEMES):
        raise InputError(f"--out {address} is no address of a server: give {SERVERS['postgres']}")
    return PostgresWriter(address)


def _writer(kind: str, path: Path) -> Writer:
    if kind == "sqlite":
        from pipeline.index.sqlite_index import SqliteWriter

        if path.is_dir():
            raise InputError(f"--out {path} is a folder: name a file for --to sqlite")
        return SqliteWriter(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path} is a file: name a folder for --to {kind}")
    if path.is_dir() and any(path.iterdir()) and not (path / STATE).is_file():
        raise InputError(f"--out {path} is a folder of something else: name a new one, or that of an index")
    held = about_of(path / STATE) if path.is_dir() else None
    if held is not None and held["kind"] != kind:
        raise InputError(
            f"--out {path} is an index of the kind {held['kind']}: give --to {held['kind']}, or another --out"
        )
    writer: Writer = _class(kind, "Writer")(path, path / STATE)
    return writer


def open_reader(path: str) -> tuple[Reader, Names, dict[str, Any]]:
    """An index, its names, and what it says of itself. Raises InputError where there is none."""
    if path.startswith(("postgresql://", "postgres://")):
        return _open_postgres(path)
    kind, place = _located(path)
    about, names = _state(place / STATE if place.is_dir() else place)
    if kind != about["kind"]:
        raise InputError(f"{path} is damaged: it says that it is of the kind {about['kind']}; make it again")
    return _reader(kind, place), names, about


def _open_postgres(address: str) -> tuple[Reader, Names, dict[str, Any]]:
    from pipeline.index.postgres_index import PostgresReader

    reader = PostgresReader(address)
    about, names = reader.state()
    if about is None or names is None:
        reader.close()
        place = redacted(address)
        raise InputError(f"{place} holds no index; `ramfleet index RUN --to postgres --out {place}` makes one")
    check_format(about)
    return reader, Names.from_dict(names), about


def _reader(kind: str, path: Path) -> Reader:
    if kind == "sqlite":
        from pipeline.index.sqlite_index import SqliteReader

        return SqliteReader(path)
    reader: Reader = _class(kind, "Reader")(path, path / STATE)
    return reader


def _class(kind: str, what: str) -> Any:
    """The Writer or Reader of a kind that is a folder; both are made of the folder and the file of its ledger."""
    return getattr(importlib.import_module(f"pipeline.index.{kind}_index"), f"{kind.capitalize()}{what}")


def _located(name: str) -> tuple[str, Path]:
    """The kind and place of an index: its own name, or that of the run it lies in."""
    path = Path(name)
    if path.is_file():
        return "sqlite", path
    if not path.is_dir():
        raise InputError(f"{name}: there is no such index; `ramfleet index RUN --out {name}` makes one")
    if (path / STATE).is_file():
        return str(_state(path / STATE)[0]["kind"]), path
    inside = [path / f"index.{kind}" for kind in KINDS if (path / f"index.{kind}").exists()]
    if len(inside) == 1:
        return _located(str(inside[0]))
    if inside:
        raise InputError(f"{name} holds {len(inside)} indexes: name one, {', '.join(map(str, inside))}")
    raise InputError(f"{name} holds no index; `ramfleet index {name}` makes one if it is a run")


def _state(file: Path) -> tuple[dict[str, Any], Names]:
    about = about_of(file)
    if about is None:
        raise InputError(f"{file} is an index that was never fed: run `ramfleet index` again")
    check_format(about)
    connection = connect(file, write=False)
    with closing(connection):
        return about, Names.from_dict(Ledger(connection).get("names"))


def about_of(file: Path) -> dict[str, Any] | None:
    """What an index says of itself; None if there is none, or it was never fed."""
    if not file.is_file():
        return None
    with closing(connect(file, write=False)) as connection:
        has_ledger = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        about: dict[str, Any] | None = Ledger(connection).get("index") if has_ledger else None
        return about
