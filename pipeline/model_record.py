"""What a run folder keeps of its model, so that it can be finalized and read where the bundle is not."""

from pathlib import Path

import pyarrow as pa

from pipeline.errors import PlanError
from pipeline.plan import Plan
from pipeline.store import RunStore
from pipeline.tables import VOCABULARY_SCHEMA, to_parquet
from ramcore.bundle import read_config, read_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary


def record_model(store: RunStore, bundle: Path, bundle_hash: str) -> None:
    """Keep the bundle's vocabulary and config beside the plan, under names of their own."""
    store.create(_name("vocabulary", bundle_hash, "parquet"), to_parquet(_vocabulary_table(read_vocabulary(bundle))))
    store.create(_name("model", bundle_hash, "json"), read_config(bundle).to_json().encode())


def recorded_model(store: RunStore, plan: Plan) -> ModelConfig:
    """The config of the model that the run was planned with. Raises PlanError if it is gone."""
    return ModelConfig.from_json(_read(store, _name("model", plan.pinned["bundle"], "json")).decode())


def recorded_vocabulary(store: RunStore, plan: Plan) -> bytes:
    """The vocabulary that the run was planned with, as Parquet of VOCABULARY_SCHEMA. Raises PlanError if it is gone."""
    return _read(store, _name("vocabulary", plan.pinned["bundle"], "parquet"))


def _name(what: str, bundle_hash: str, kind: str) -> str:
    return f"plan/{what}-{bundle_hash[:16]}.{kind}"


def _read(store: RunStore, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise PlanError(f"{store.root}/{name} is missing; restore the run folder") from error


def _vocabulary_table(vocabulary: Vocabulary) -> pa.Table:
    columns = [list(range(len(vocabulary))), list(vocabulary.tags), list(vocabulary.tags_zh), vocabulary.thresholds]
    return pa.table(dict(zip(VOCABULARY_SCHEMA.names, columns, strict=True)), schema=VOCABULARY_SCHEMA)
