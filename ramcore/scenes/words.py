"""Vectors for short descriptions, without a text encoder: hashed bags of words."""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def description_vectors(descriptions: Sequence[Sequence[str]], dim: int) -> npt.NDArray[np.float32]:
    """A unit vector per description, tag by tag: float32 [tags · descriptions, dim].

    Every word has a random direction that follows from its spelling; a description is the sum of its words.
    Descriptions that share words therefore start close together. Training moves them from there.
    """
    rows = []
    for text in (text for texts in descriptions for text in texts):
        words = re.findall(r"\w+", text.lower())
        vector = sum((_word_vector(word, dim) for word in words), np.zeros(dim))
        rows.append(vector / np.linalg.norm(vector))
    return np.stack(rows).astype(np.float32)


def _word_vector(word: str, dim: int) -> npt.NDArray[np.float64]:
    # Frequent small words say little about a tag.
    weight = 0.3 if len(word) < 4 else 1.0
    return weight * np.random.default_rng(zlib.crc32(word.encode())).standard_normal(dim)
