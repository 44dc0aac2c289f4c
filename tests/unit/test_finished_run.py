"""A folder that should hold a finished run: what is missing or damaged is named, with the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Cards, write_run

from pipeline.errors import InputError
from pipeline.finished_run import FinishedRun
from pipeline.quoting.measured_run import measured_cards
from pipeline.stores.local_store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    write_run(store, images=10, attempts=2, fleet=[Cards("t4", "T4", 1, 20.0)])
    return store


def without(*path: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("versions"), "versions"),
        (without("counts", "carried"), "counts.carried"),
        (without("parts"), "parts"),
        (lambda document: document.update(parts=[]), "parts"),
        (lambda document: document.update(model=None), "model"),
        (lambda document: document["counts"].update(tagged=-1), "counts.tagged"),
    ],
)
def test_what_run_json_lacks_is_named(
    store: LocalStore, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    """All at once, and what writes it again."""
    document = json.loads(store.read("run.json"))
    change(document)
    store.replace("run.json", json.dumps(document).encode())
    with pytest.raises(InputError, match=f"{named}.*ramfleet finalize"):
        FinishedRun(store)


@pytest.mark.parametrize("text", ["[]", "null", "[" * 200_000, '{"format_version": 1', "\x00"])
def test_a_damaged_run_json_is_said(store: LocalStore, text: str) -> None:
    """Whoever reads it: reports and quotes alike."""
    store.replace("run.json", text.encode())
    for read in (FinishedRun, measured_cards):
        with pytest.raises(InputError, match=r"run\.json is damaged; `ramfleet finalize"):
            read(store)


def test_a_run_json_that_is_a_folder_is_said(store: LocalStore) -> None:
    """An error of the file system is one line."""
    path = store.path("run.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"run\.json cannot be read: Is a directory"):
        FinishedRun(store)


@pytest.mark.parametrize("data", [None, b"", b"PAR1"])
def test_a_part_that_is_missing_or_damaged_is_named(store: LocalStore, data: bytes | None) -> None:
    """The vocabulary too; a quote that is to rest on the run says the same of its telemetry."""
    run = FinishedRun(store)
    for part in ("vocabulary.parquet", *run.document["parts"]["telemetry"]):
        store.delete(part)
        if data is not None:
            store.replace(part, data)
    with pytest.raises(InputError, match=r"vocabulary.parquet is missing or damaged; `ramfleet finalize"):
        run.vocabulary()
    with pytest.raises(InputError, match=r"telemetry/part.* is missing or damaged; `ramfleet finalize"):
        measured_cards(store)


def test_a_run_of_another_format_measures_nothing(store: LocalStore) -> None:
    """Its telemetry may mean something else."""
    document = json.loads(store.read("run.json"))
    store.replace("run.json", json.dumps({**document, "format_version": 99}).encode())
    with pytest.raises(InputError, match="format_version 99, not 1"):
        measured_cards(store)
