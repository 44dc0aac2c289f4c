"""Pictures that no run has, tagged in this process as the run would tag them; nothing of them is kept."""

import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.error_kinds import ERROR_KINDS
from pipeline.errors import InputError, RunError
from pipeline.report.contact_sheet import small
from pipeline.tables.selection import floors
from ramcore.errors import ImageError, RamcoreError
from ramcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ramcore.tagger import Tagger

MOST_BYTES = 50_000_000
"""Of a picture."""
_MOST_SCORES = 128


class PictureError(RunError):
    """What was given is no picture that can be tagged; the message is for a person."""

    exit_code = 2


class Looker:
    """A model that is loaded for the first picture.

    bundle: called once, for its folder; device: as for `ramcore.load`; names: the run's tags, whose thresholds decide
    where the model has the same tags; mode: of decoding, see `ramcore.images.decode`.
    """

    def __init__(self, bundle: Callable[[], Path], device: str, names: Vocabulary, mode: str) -> None:
        self._bundle, self._device, self._names, self._mode = bundle, device, names, mode
        self._one_at_a_time = threading.Lock()
        self._loaded: Tagger | None = None

    def look(self, data: bytes) -> dict[str, Any]:
        """Scores of a picture, the highest first: those that a run stores by default, and whether each is a tag.

        same_tags: whether tag_ids and thresholds are the run's; jpeg: what was decoded, at most 192 pixels a side, in
        base64. Raises PictureError for bytes that are no picture, InputError or PinnedError without a usable model.
        """
        with self._one_at_a_time:
            tagger = self._tagger()
            try:
                scores = tagger.scores(tagger.pixels(data, self._mode)[None])[0].numpy()
                jpeg = small(data)
            except ImageError as error:
                raise PictureError(f"{error.detail}: {ERROR_KINDS[error.kind].cause}") from error
        if not np.isfinite(scores).all():
            raise InputError(f"{tagger.bundle}: the model's scores are not finite: its weights are damaged")
        same = tagger.vocabulary.tags == self._names.tags
        vocabulary = self._names if same else tagger.vocabulary
        return {
            "model": {"kind": tagger.config.kind, "demo": tagger.config.demo, "bundle": str(tagger.bundle)},
            "same_tags": same,
            "scores": _shown(scores, vocabulary),
            "jpeg": base64.b64encode(jpeg).decode(),
        }

    def _tagger(self) -> "Tagger":
        if self._loaded is None:
            import ramcore

            try:
                self._loaded = ramcore.load(self._bundle(), device=self._device)
            except (RamcoreError, ValueError) as error:
                raise InputError(str(error)) from error
        return self._loaded


def _shown(scores: NDArray[np.float32], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    thresholds = vocabulary.thresholds
    fired = scores > thresholds
    kept = np.flatnonzero(fired | (scores >= floors(thresholds, "auto")))
    order = kept[np.lexsort((kept, -scores[kept]))][:_MOST_SCORES]
    return [
        {
            "tag_id": tag,
            "tag": vocabulary.tags[tag],
            "tag_zh": vocabulary.tags_zh[tag],
            "score": float(scores[tag]),
            "threshold": float(thresholds[tag]),
            "fired": bool(fired[tag]),
        }
        for tag in order.tolist()
    ]
