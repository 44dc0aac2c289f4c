"""What a run folder keeps of its model, so that it can be finalized and read where the bundle is not."""

from pathlib import Path

import pyarrow as pa

from pipeline.errors import PlanError
from pipeline.plan import Plan
from pipeline.stores.run_store import RunStore
from pipeline.tables import VOCABULARY_SCHEMA, to_parquet
from ramcore.bundle import read_config, read_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary


def record_model(store: RunStore, bundle: Path, bundle_hash: str) -> None:
    """Keep the bundle's vocabulary and config beside the plan, under names of their own."""
    store.create(vocabulary_name(bundle_hash), to_parquet(vocabulary_table(read_vocabulary(bundle))))
    store.create(model_name(bundle_hash), read_config(bundle).to_json().encode())


def recorded_model(store: RunStore, plan: Plan) -> ModelConfig:
    """The config of the model that the run was planned with. Raises PlanError if it is gone."""
    return ModelConfig.from_json(_read(store, model_name(plan.pinned["bundle"])).decode())


def recorded_vocabulary(store: RunStore, plan: Plan) -> bytes:
    """The vocabulary that the run was planned with, as Parquet of VOCABULARY_SCHEMA. Raises PlanError if it is gone."""
    return _read(store, vocabulary_name(plan.pinned["bundle"]))


def vocabulary_name(bundle_hash: str) -> str:
    """The object that keeps the vocabulary of the bundle that a run was planned with."""
    return f"plan/vocabulary-{bundle_hash[:16]}.parquet"


def model_name(bundle_hash: str) -> str:
    """The object that keeps the config of that bundle."""
    return f"plan/model-{bundle_hash[:16]}.json"


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
