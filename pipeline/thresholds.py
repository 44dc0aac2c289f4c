"""Thresholds as a user gives them: one number, a CSV by name, or a list in the order of the vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from ramcore.vocabulary import Vocabulary, parse_threshold, read_lines
from ramcore.vocabulary_edits import read_thresholds


@dataclass(frozen=True)
class Thresholds:
    """New thresholds.

    values: one for all tags that can fire, one for each tag in order, or some by name; source: for messages.
    """

    values: float | tuple[float, ...] | Mapping[str, float]
    source: str

    @property
    def described(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {"from": self.source} | ({"value": self.values} if isinstance(self.values, float) else {})

    def resolve(self, vocabulary: Vocabulary) -> NDArray[np.float32]:
        """float32 [tags]; tags that are not named keep theirs, a name that repeats means all its tags.

        Raises ConfigError for another number of thresholds than tags, or a name that is no tag.
        """
        tags = vocabulary.tags
        if isinstance(self.values, float):
            # A threshold of 1 switches a tag off, as the reference's list of deleted tags does: it stays off.
            return np.where(vocabulary.thresholds == 1, np.float32(1), np.float32(self.values))
        if isinstance(self.values, tuple):
            if len(self.values) != len(tags):
                raise ConfigError(
                    f"--thresholds {self.source} has {len(self.values)} lines, the run has {len(tags)} tags: give one "
                    "line for each tag, or a .csv with tag,threshold"
                )
            return np.array(self.values, np.float32)
        unknown = sorted(self.values.keys() - set(tags))
        if unknown:
            raise ConfigError(
                f"--thresholds {self.source}: {unknown[0]!r} is no tag of the run ({len(unknown)} such names): "
                "take names from its vocabulary.parquet"
            )
        old = zip(tags, vocabulary.thresholds, strict=True)
        return np.array([self.values.get(tag, threshold) for tag, threshold in old], np.float32)


def parse_thresholds(threshold: float | None, file: Path | None) -> Thresholds | None:
    """From --threshold or --thresholds; None if neither is given. Raises ConfigError or VocabularyError."""
    if threshold is not None and file is not None:
        raise ConfigError("--threshold and --thresholds are both given: give one of them")
    if threshold is not None:
        return Thresholds(parse_threshold(str(threshold), "--threshold"), "--threshold")
    if file is None:
        return None
    if file.suffix.lower() == ".csv":
        return Thresholds(read_thresholds(file), str(file))
    if file.suffix.lower() != ".txt":
        raise ConfigError(f"--thresholds {file}: give a .csv with tag,threshold or a .txt with one number per tag")
    lines = enumerate(read_lines(file), 1)
    return Thresholds(tuple(parse_threshold(line, f"{file} line {number}") for number, line in lines), str(file))
