"""A planned run whose chunks are committed without Ray or a model, for what reads committed chunks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.chunks import commit_chunk
from pipeline.config import Config
from pipeline.manifests.versions import with_versions
from pipeline.model_record import record_model
from pipeline.plan import Plan, make_plan
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import IMAGE_FIELDS, with_attempt
from pipeline.tables.selection import floors, select
from pipeline.tagging import tag_table, tagged_part
from ramcore.vocabulary import Vocabulary

HASH = "0123456789abcdef" * 4
ATTEMPT = {"fetch_s": 0.5, "decode_s": 0.5, "started_at": 10.0, "ended_at": 12.0, "pieces": []}
VOCABULARY = Vocabulary(("dog", "cat"), ("狗", "猫"), np.array([0.5, 0.5], np.float32))
PINNED = {"INPUT": "/pictures", "--limit": None, "--base": None, "bundle": HASH, **Config().pinned()}


def plan_run(
    store: RunStore,
    bundle: Path,
    ids: Sequence[str],
    chunk_rows: int = 4,
    versions: Mapping[str, str | None] | None = None,
    base_hash: str | None = None,
    **options: object,
) -> Plan:
    """A planned run of images at /pictures/ID; versions: by id, "1" where not given; base_hash: of the plan
    of its base."""
    known = {} if versions is None else versions
    columns = {"image_id": list(ids), "uri": [f"/pictures/{image_id}" for image_id in ids]}
    columns["version"] = [known.get(image_id, "1") for image_id in ids]
    record_model(store, bundle, HASH)
    schema = pa.schema([(name, pa.string()) for name in columns])
    rows = with_versions(iter([pa.RecordBatch.from_pydict(columns, schema=schema)]), look=False)
    return make_plan(rows, store, chunk_rows, None, {**PINNED, "base.plan_hash": base_hash}, **options)


def tagged_rows(plan: Plan, rows: pa.Table, rejects: Mapping[str, str], tag: int = 0) -> pa.Table:
    """Planned rows as the flow hands them to the commit. rejects: error kind by image_id; tag: the one that fires."""
    rows = rows.drop_columns(["planned_error"])
    kinds = [rejects.get(image_id) for image_id in rows["image_id"].to_pylist()]
    values = {"error_kind": kinds, "attempts": [1] * len(rows), "image_bytes": [100] * len(rows)}
    for field in IMAGE_FIELDS:
        rows = rows.append_column(field, pa.array(values.get(field.name, [None] * len(rows)), field.type))
    scores = np.full((kinds.count(None), 2), 0.1, np.float32)
    scores[:, tag] = 0.9
    part = tagged_part(select(scores, VOCABULARY.thresholds, floors(VOCABULARY.thresholds, "auto"), 0))
    return with_attempt(tag_table(rows, [part], VOCABULARY), {**ATTEMPT, "plan_hash": plan.hash})


def commit_all(store: RunStore, plan: Plan, rejects: Mapping[str, str] | None = None, tag: int = 0) -> None:
    """Commit every chunk of a plan."""
    for chunk in range(plan.chunks):
        table = tagged_rows(plan, plan.read_chunk(store, chunk), rejects or {}, tag)
        if not commit_chunk(store, chunk, table):
            raise AssertionError(f"chunk {chunk} was there already")
