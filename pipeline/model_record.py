"""What a run folder keeps of its model, so that it can be finalized and read where the bundle is not."""

from pathlib import Path

import pyarrow as pa

from pipeline.errors import PinnedError, PlanError
from pipeline.events.log import read_events
from pipeline.plan import Plan
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import VOCABULARY_SCHEMA, to_parquet
from ramcore.bundle import bundle_hash, demo_bundle, read_config, read_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary


def record_model(store: RunStore, bundle: Path, identity: str) -> None:
    """Keep the bundle's vocabulary and config beside the plan, under names of their own. identity: its hash."""
    store.create(vocabulary_name(identity), to_parquet(vocabulary_table(read_vocabulary(bundle))))
    store.create(model_name(identity), read_config(bundle).to_json().encode())


def recorded_model(store: RunStore, plan: Plan) -> ModelConfig:
    """The config of the model that the run was planned with. Raises PlanError if it is gone."""
    return ModelConfig.from_json(_read(store, model_name(plan.pinned["bundle"])).decode())


def recorded_vocabulary(store: RunStore, plan: Plan) -> bytes:
    """The vocabulary that the run was planned with, as Parquet of VOCABULARY_SCHEMA. Raises PlanError if it is gone."""
    return _read(store, vocabulary_name(plan.pinned["bundle"]))


def recorded_bundle(store: RunStore, identity: str) -> Path:
    """The folder of the bundle with this hash: where a driver of the run had it, or the demo bundle.

    Raises PinnedError if it is in neither place.
    """
    used = [
        Path(event["bundle"])
        for event in read_events(store)
        if event["event"] == "driver_started" and "bundle" in event
    ]
    for folder in dict.fromkeys([*reversed(used), demo_bundle()]):
        if (folder / "config.json").exists() and bundle_hash(folder) == identity:
            return folder
    place = f", it was {used[-1]}" if used else ""
    raise PinnedError(f"{store.root}: the bundle that the run was planned with is not here{place}: give --model")


def vocabulary_name(identity: str) -> str:
    """The object that keeps the vocabulary of the bundle that a run was planned with."""
    return f"plan/vocabulary-{identity[:16]}.parquet"


def model_name(identity: str) -> str:
    """The object that keeps the config of that bundle."""
    return f"plan/model-{identity[:16]}.json"


def _read(store: RunStore, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise PlanError(f"{store.root}/{name} is missing; restore the run folder") from error


def vocabulary_of(table: pa.Table) -> Vocabulary:
    """The vocabulary in a table of VOCABULARY_SCHEMA."""
    tags, tags_zh = (tuple(table[name].to_pylist()) for name in ("tag", "tag_zh"))
    return Vocabulary(tags, tags_zh, table["threshold"].to_numpy())


def vocabulary_table(vocabulary: Vocabulary) -> pa.Table:
    """The vocabulary as a table of VOCABULARY_SCHEMA."""
    columns = [list(range(len(vocabulary))), list(vocabulary.tags), list(vocabulary.tags_zh), vocabulary.thresholds]
    return pa.table(dict(zip(VOCABULARY_SCHEMA.names, columns, strict=True)), schema=VOCABULARY_SCHEMA)
