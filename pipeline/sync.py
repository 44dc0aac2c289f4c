"""`ramfleet tag --base OLD_RUN`: what is unchanged since an older run is carried over from it, not tagged again.

A row is unchanged if the base has tagged an image of the same image_id and uri, and its version was the same (see
`pipeline.manifests.versions`). Memory does not grow with the number of rows: ids are compared in partitions on disk,
then the base's tag table streams by once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import InputError, PinnedError
from pipeline.finished_run import published
from pipeline.manifests.identity import CARRIED, Flags, Spool, partitioned, partitions_for
from pipeline.plan import CarriedPart
from pipeline.stores.run_store import RunStore
from pipeline.tables.names import Naming
from pipeline.tables.parts import GROUP_ROWS, PartWriter
from pipeline.tables.schemas import TAGS_COLUMNS, VERSION_COLUMN

BASE_PIN = "--base"
_MAY_DIFFER = ("INPUT", "--limit", BASE_PIN, "plan.chunk_rows", "manifest.keep")
"""Pinned keys that do not decide which tags an image gets."""
_AUTO_MEANS_AS_BASE = ("model.dtype", "output.captions")


@dataclass(frozen=True)
class BaseRun:
    """A finished run whose tags are taken over. document: its run.json; by_uri: what is unchanged without versions."""

    store: RunStore
    document: dict[str, Any]
    by_uri: bool

    def carry(self, store: RunStore, spool: Spool, flags: Flags) -> tuple[list[CarriedPart], dict[str, int]]:
        """Write the unchanged rows into `carried/`, as the base tagged them, with the columns that are kept now."""
        rows = self.document["counts"]["tagged"] + self.document["counts"].get("carried", 0)
        new_rows = np.memmap(spool.folder / "carried", np.int64, "w+", shape=(max(rows, 1),))
        new_rows[:] = -1
        matched, carried = self._match(spool, flags, new_rows)
        kept = [name for name in spool.schema.names if name not in ("image_id", "uri")]
        columns = [*TAGS_COLUMNS, *Naming.of(self.document["pinned"]).extra_columns, *kept]
        parts = self._write(store, spool, new_rows, kept, columns) if carried else []
        new = spool.rows - spool.duplicates - spool.other_uris - matched
        return parts, {"new": new, "changed": matched - carried, "removed": rows - matched}

    def _match(self, spool: Spool, flags: Flags, new_rows: NDArray[np.int64]) -> tuple[int, int]:
        """Fill in, for each row of the base's tag table, the row of the input that it is carried to; rows of the
        base whose id is in the input, and rows that are carried."""
        matched = carried = 0
        partitions = partitions_for(max(spool.rows, len(new_rows)), spool.text_bytes)
        new = partitioned(spool.narrow(flags, [VERSION_COLUMN]), partitions, spool.folder)
        old = partitioned(self._narrow(), partitions, spool.folder)
        for left, right in _pairs(new, old):
            joined = left.join(right, keys="image_id", right_suffix="_base", join_type="inner")
            matched += joined.num_rows
            same = joined.filter(pa.array(self._unchanged(joined)))
            carried += same.num_rows
            flags[same["row"].to_numpy()] = CARRIED
            new_rows[same["row_base"].to_numpy()] = same["row"].to_numpy()
        return matched, carried

    def _unchanged(self, joined: pa.Table) -> NDArray[np.bool_]:
        uri, uri_base, version, version_base = (
            joined[name].to_numpy(zero_copy_only=False)
            for name in ("uri", "uri_base", VERSION_COLUMN, f"{VERSION_COLUMN}_base")
        )
        known = np.array([text is not None for text in version], np.bool_)
        known &= np.array([text is not None for text in version_base], np.bool_)
        same: NDArray[np.bool_] = np.where(known, version == version_base, self.by_uri).astype(np.bool_)
        return same & np.asarray(uri == uri_base, np.bool_)

    def _narrow(self) -> Iterator[pa.Table]:
        first = 0
        for table in self._tags(["image_id", "uri", VERSION_COLUMN]):
            row = pa.array(np.arange(first, first + table.num_rows))
            first += table.num_rows
            texts = [table[name].cast(pa.large_string()) for name in ("image_id", "uri", VERSION_COLUMN)]
            yield pa.table([*texts, row], names=["image_id", "uri", VERSION_COLUMN, "row"])

    def _tags(self, columns: list[str]) -> Iterator[pa.Table]:
        """The base's tag table; a version that it does not know is null."""
        for name in self.document["parts"]["tags"]:
            with self.store.open(name) as file:
                parquet = pq.ParquetFile(file)
                there = [column for column in columns if column in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(batch_size=GROUP_ROWS, columns=there):
                    table = pa.Table.from_batches([batch])
                    for column in set(columns) - set(there):
                        table = table.append_column(column, pa.nulls(table.num_rows, pa.string()))
                    yield table.select(columns)

    def _write(
        self, store: RunStore, spool: Spool, new_rows: NDArray[np.int64], kept: list[str], columns: list[str]
    ) -> list[CarriedPart]:
        writer = PartWriter(store, "carried/", spool.folder, columns)
        taken = [name for name in columns if name not in kept]
        first = 0
        for table in self._tags(taken):
            targets = np.asarray(new_rows[first : first + table.num_rows])
            first += table.num_rows
            if not (targets >= 0).any():
                continue
            rows = table.filter(pa.array(targets >= 0))
            of_input = spool.take(targets[targets >= 0])
            # The chunk was one of the base.
            rows = rows.set_column(rows.schema.get_field_index("chunk"), "chunk", pa.nulls(rows.num_rows, pa.int64()))
            for name in kept:
                rows = rows.append_column(of_input.schema.field(name), of_input[name])
            writer.add(rows.replace_schema_metadata())
        return [CarriedPart(name, count) for name, count in writer.close_with_rows()]


def open_base(store: RunStore, asked: dict[str, Any], by_uri: bool) -> BaseRun:
    """The finished run in a store, as a base for a run with the pins `asked`.

    Raises InputError if it is no finished run, PinnedError naming every key that would give other tags.
    """
    document = published(store)
    if document is None:
        raise InputError(f"--base {store.root} holds no finished run: there is no run.json in it")
    if document["status"] != "complete":
        raise InputError(f"--base {store.root}: the run is {document['status']}: finish it first")
    if "derived_from" in document:
        raise PinnedError(
            f"--base {store.root} was made by `ramfleet threshold`: its tags are not those that tagging gives; "
            f"name the run that it was made from, {document['derived_from']['run']}"
        )
    pinned = document["pinned"]
    differences = [
        f"{key}: the base was tagged with {pinned.get(key)!r}, now asked with {value!r}"
        for key, value in asked.items()
        if key not in _MAY_DIFFER and value != pinned.get(key) and not (value == "auto" and key in _AUTO_MEANS_AS_BASE)
    ]
    if differences:
        remedy = "ask for the same, or tag without --base"
        raise PinnedError("\n".join([f"--base {store.root} was tagged otherwise; {remedy}", *differences]))
    return BaseRun(store, document, by_uri)


def _pairs(
    left: Iterator[tuple[int, pa.Table]], right: Iterator[tuple[int, pa.Table]]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The tables of partitions that both sides have; both come in order of number."""
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        if one[0] == other[0]:
            yield one[1], other[1]
            one, other = next(left, None), next(right, None)
        elif one[0] < other[0]:
            one = next(left, None)
        else:
            other = next(right, None)
