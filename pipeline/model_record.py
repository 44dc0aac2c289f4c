"""What a run folder keeps of its model, so that it can be finalized and read where the bundle is not."""

from pathlib import Path

import pyarrow as pa

from pipeline.store import RunStore
from pipeline.tables import VOCABULARY_SCHEMA, to_parquet
from ramcore.bundle import read_config, read_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary

VOCABULARY = "plan/vocabulary.parquet"
_MODEL = "plan/model.json"


def record_model(store: RunStore, bundle: Path) -> None:
    """Keep the bundle's vocabulary and config with the plan, if that is not done yet."""
    store.create(VOCABULARY, to_parquet(_vocabulary_table(read_vocabulary(bundle))))
    store.create(_MODEL, read_config(bundle).to_json().encode())


def recorded_model(store: RunStore) -> ModelConfig:
    """The config of the model that the run was planned with."""
    return ModelConfig.from_json(store.read(_MODEL).decode())


def _vocabulary_table(vocabulary: Vocabulary) -> pa.Table:
    columns = [list(range(len(vocabulary))), list(vocabulary.tags), list(vocabulary.tags_zh), vocabulary.thresholds]
    return pa.table(dict(zip(VOCABULARY_SCHEMA.names, columns, strict=True)), schema=VOCABULARY_SCHEMA)
