"""`ramfleet verify`: a run against its plan, object by object; it changes nothing."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.chunks import chunk_name, generations, read_chunk
from pipeline.errors import IncompleteError, InputError, PlanError, last_line
from pipeline.plan import Plan, read_plan
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.read_only import cleaned_record
from pipeline.stores.run_store import RunStore
from pipeline.tables.parts import digest_of

_BATCH_ROWS = 65_536
_NAMED = 5
"""Objects that a fault names before it counts the others."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_GO_ON = "run the command that began the run again"
_PUBLISH = "run `ramfleet finalize` on it"
_RESTORE = "restore it from a copy; without one, tag again into another --out"


@dataclass
class Verified:
    """What was found. faults: one line each, with the repair; checksum: of image_id and uri of all rows that the
    tables must have, whatever their order; rows, objects: how many were looked at."""

    faults: list[str] = field(default_factory=list)
    checksum: int = 0
    rows: int = 0
    objects: int = 0


def verify(store: RunStore) -> Verified:
    """Check plan, chunks and published parts: that all are there and whole, and that no row is lost or doubled.

    Raises InputError if the folder holds no run. Everything is read once; memory does not grow with the run.
    """
    found = Verified()
    try:
        plan = read_plan(store)
    except PlanError as error:
        found.faults.append(str(error))
        return found
    if plan is None:
        raise InputError(f"{store.root} holds no run: there is no plan/plan.json in it")
    cleaned = cleaned_record(store)
    _check_plan(store, plan, found)
    tallied: Counter[str] | None = None
    if cleaned is None:
        tallied = _check_chunks(store, plan, found)
        _check_carried(store, plan, found)
    else:
        found.checksum = cleaned["rows_checksum"]
    _check_published(store, plan, found, tallied)
    return found


def _check_plan(store: RunStore, plan: Plan, found: Verified) -> None:
    wanted = {part.name: part.sha256 for part in plan.parts} | {plan.duplicates_name: plan.duplicates_sha256}
    for name, sha256 in wanted.items():
        found.objects += 1
        if _sha256(store, name) != sha256:
            found.faults.append(f"{name} is missing or not as it was written: {_RESTORE}")
            continue
        if name != plan.duplicates_name:
            for table in _columns(store, name, ["image_id", "uri"]):
                found.checksum = _added(found.checksum, table)


def _check_chunks(store: RunStore, plan: Plan, found: Verified) -> Counter[str] | None:
    """Rows of the committed chunks by error kind, "" for tagged; None if they are not all there."""
    there = generations(store)
    missing = [chunk for chunk in range(plan.chunks) if chunk not in there]
    if missing:
        found.faults.append(f"{len(missing)} of {plan.chunks} chunks are not committed, {_named(missing)}: {_GO_ON}")
    strange = [chunk_name(*item) for item in there.items() if item[0] >= plan.chunks]
    if strange:
        found.faults.append(f"{len(strange)} chunks are not planned, {_named(strange)}: delete them")
    tallied: Counter[str] = Counter()
    before = len(found.faults)

    def check(item: tuple[int, int]) -> Counter[str] | str:
        return _check_chunk(store, plan, *item)

    for result in read_ahead(check, [item for item in there.items() if item[0] < plan.chunks]):
        found.objects += 1
        if isinstance(result, str):
            found.faults.append(result)
        else:
            tallied += result
    found.rows += tallied.total()
    return tallied if not missing and len(found.faults) == before else None


def _check_chunk(store: RunStore, plan: Plan, chunk: int, generation: int) -> Counter[str] | str:
    """The chunk's rows by error kind, or what is wrong with it."""
    try:
        table = read_chunk(store, plan, chunk, generation)
        planned = plan.read_chunk(store, chunk)
    except (IncompleteError, PlanError) as error:
        return str(error).removeprefix(f"{store.root}/")
    if not table.select(["image_id", "uri"]).equals(planned.select(["image_id", "uri"])):
        return f"{chunk_name(chunk, generation)} has other images than planned: delete it, then {_GO_ON}"
    return Counter(pc.fill_null(table["error_kind"], "").to_pylist())


def _check_carried(store: RunStore, plan: Plan, found: Verified) -> None:
    for part in plan.carried:
        found.objects += 1
        if not _is_whole(store, part.name):
            found.faults.append(f"{part.name} is missing or not as it was written: {_RESTORE}")
            continue
        rows = 0
        for table in _columns(store, part.name, ["image_id", "uri"]):
            rows += table.num_rows
            found.checksum = _added(found.checksum, table)
        if rows != part.rows:
            found.faults.append(f"{part.name} holds {rows} rows, the plan has {part.rows}: {_RESTORE}")


def _check_published(store: RunStore, plan: Plan, found: Verified, tallied: Counter[str] | None) -> None:
    repair = _RESTORE if cleaned_record(store) is not None else _PUBLISH
    try:
        document = json.loads(store.read("run.json"))
        counts, parts = document["counts"], document["parts"]
    except FileNotFoundError:
        found.faults.append(f"run.json is missing: {repair}")
        return
    except (ValueError, KeyError, TypeError) as error:
        found.faults.append(f"run.json is damaged ({last_line(error)}): {repair}")
        return
    if document["plan_hash"] != plan.hash:
        found.faults.append(f"run.json is of another plan: {repair}")
        return
    if document["status"] != "complete":
        found.faults.append(f"the tables were published when {counts['missing']} images were not yet done: {_PUBLISH}")
    elif tallied is not None and (counts["tagged"], counts["rejected"]) != (tallied[""], tallied.total() - tallied[""]):
        found.faults.append(f"the tables were published before the last retry: {_PUBLISH}")
    _check_parts(store, found, parts, counts, repair, complete=document["status"] == "complete")


def _check_parts(
    store: RunStore,
    found: Verified,
    parts: dict[str, list[str]],
    counts: dict[str, int],
    repair: str,
    complete: bool,
) -> None:
    checksum, rows, before = 0, Counter[str](), len(found.faults)
    for folder, names in parts.items():
        extra = sorted(set(store.list(f"{folder}/")) - set(names))
        if extra:
            found.faults.append(f"{folder}/ has objects that are not in run.json, {_named(extra)}: {repair}")
        for name in names:
            found.objects += 1
            if not _is_whole(store, name):
                found.faults.append(_lost(store, name, repair))
                continue
            if folder == "telemetry":
                continue
            for table in _columns(store, name, ["image_id", "uri"]):
                rows[folder] += table.num_rows
                if folder != "duplicates":
                    checksum = _added(checksum, table)
    if len(found.faults) > before:
        return
    wanted = {"tags": counts["tagged"] + counts.get("carried", 0)}
    wanted |= {"rejects": counts["rejected"], "duplicates": counts["duplicates"]}
    for folder, number in wanted.items():
        if rows[folder] != number:
            found.faults.append(f"{folder}/ holds {rows[folder]} rows, run.json has {number}: {repair}")
    if complete and checksum != found.checksum:
        found.faults.append(f"tags/ and rejects/ do not hold the images of the plan, each once: {repair}")
    found.rows = max(found.rows, rows.total())


def _lost(store: RunStore, name: str, repair: str) -> str:
    if not store.exists(name):
        return f"{name} is missing: {repair}"
    # Finalize leaves a part that is there alone: its name says what is in it.
    return f"{name} is not as it was written: {repair if repair == _RESTORE else 'delete it, then ' + repair}"


def _columns(store: RunStore, name: str, columns: list[str]) -> Iterator[pa.Table]:
    with store.open(name) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _sha256(store: RunStore, name: str) -> str | None:
    try:
        with store.open(name) as file:
            return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _is_whole(store: RunStore, name: str) -> bool:
    """Whether a part is there with the content that its name says."""
    sha256, digest = _sha256(store, name), digest_of(f"/{name}")
    return sha256 is not None and digest is not None and sha256.startswith(digest)


def _added(checksum: int, table: pa.Table) -> int:
    """The checksum with the rows of the table: a sum of hashes modulo 2**64, so that the order does not matter."""
    ids, uris = (
        pd.util.hash_array(table[name].to_numpy(zero_copy_only=False), categorize=False) for name in ("image_id", "uri")
    )
    total = int((ids * _ODD + uris).sum(dtype=np.uint64))
    return (checksum + total) % 2**64


def _named(items: list[Any]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(map(str, items[:_NAMED])) + more
