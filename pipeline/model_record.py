"""What a run folder keeps of its model, so that it can be finalized and read where the bundle is not."""

from pathlib import Path

import pyarrow as pa

from pipeline.store import RunStore
from pipeline.tables import VOCABULARY_SCHEMA, to_parquet
from ramcore.bundle import read_config, read_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary

VOCABULARY = "plan/vocabulary.parquet"
MODEL = "plan/model.json"


def record_model(store: RunStore, bundle: Path) -> None:
    """Keep the bundle's vocabulary and config with the plan, if that is not done yet."""
    store.create(VOCABULARY, to_parquet(vocabulary_table(read_vocabulary(bundle))))
    store.create(MODEL, read_config(bundle).to_json().encode())


def recorded_model(store: RunStore) -> ModelConfig:
    """The config of the model that the run was planned with."""
    return ModelConfig.from_json(store.read(MODEL).decode())


def vocabulary_of(table: pa.Table) -> Vocabulary:
    """The vocabulary in a table of VOCABULARY_SCHEMA."""
    tags, tags_zh = (tuple(table[name].to_pylist()) for name in ("tag", "tag_zh"))
    return Vocabulary(tags, tags_zh, table["threshold"].to_numpy())


def vocabulary_table(vocabulary: Vocabulary) -> pa.Table:
    """The vocabulary as a table of VOCABULARY_SCHEMA."""
    columns = [list(range(len(vocabulary))), list(vocabulary.tags), list(vocabulary.tags_zh), vocabulary.thresholds]
    return pa.table(dict(zip(VOCABULARY_SCHEMA.names, columns, strict=True)), schema=VOCABULARY_SCHEMA)
