"""Tags that a model was never trained on, from texts about them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ramcore.config import ModelConfig
from ramcore.descriptions import Descriptions
from ramcore.errors import VocabularyError
from ramcore.tagger import Tagger
from ramcore.text_tagger import TextTagger
from ramcore.text_tower import TextTower
from ramcore.vocabulary import Vocabulary

OPEN_SET_THRESHOLD = 0.5


def open_set_tagger(
    tagger: Tagger, descriptions: Descriptions, tower: TextTower, threshold: float = OPEN_SET_THRESHOLD
) -> Tagger:
    """A tagger for the described tags instead of the bundle's; the networks' weights are shared.

    threshold: of every tag, 0.5 as in the reference's demos. Raises `VocabularyError` for a model without text
    embeddings (Tag2Text) or a text model of another width.
    """
    model = tagger.model
    if not isinstance(model, TextTagger):
        raise VocabularyError(f"kind {tagger.config.kind} learns its tags: open tags take a ram or ram_plus bundle")
    labels, counts = label_embeddings(tagger.config, descriptions, tower)
    names = tuple(descriptions)
    vocabulary = Vocabulary(names, ("",) * len(names), np.full(len(names), threshold, np.float32))
    return Tagger(model.with_labels(torch.from_numpy(labels), counts), vocabulary, like=tagger)


def label_embeddings(
    config: ModelConfig, descriptions: Descriptions, tower: TextTower
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Rows of `label_embed`, float32 [R, E], tag by tag, and the number of rows of each tag.

    RAM++ takes every text as a row of unit length. RAM takes one row per tag: the mean of its texts' unit
    vectors, brought to unit length again. Raises `VocabularyError` for a text model of another width.
    """
    texts = [text for name in descriptions for text in descriptions[name]]
    rows = tower.encode(texts)
    if rows.shape[1] != config.embed_dim:
        raise VocabularyError(
            f"text model {tower.folder} gives {rows.shape[1]} channels, the bundle takes {config.embed_dim}: "
            "give CLIP ViT-B/16 (openai/clip-vit-base-patch16)"
        )
    counts = [len(descriptions[name]) for name in descriptions]
    if config.kind == "ram_plus":
        return rows, counts
    return _means(rows, counts), [1] * len(counts)


def _means(rows: npt.NDArray[np.float32], counts: Sequence[int]) -> npt.NDArray[np.float32]:
    parts = np.split(rows, np.cumsum(counts)[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])
    unit: npt.NDArray[np.float32] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit
