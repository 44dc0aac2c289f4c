"""A model ready for use: pixels, pictures or files to scores and tags."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ramcore.bundle import bundle_hash
from ramcore.captions import Captioner, given_tags, join_tags
from ramcore.images import decode
from ramcore.inference import for_inference
from ramcore.preprocess import PixelBatch, normalise
from ramcore.tag2text import Tag2Text
from ramcore.tag_model import TagModel
from ramcore.tokenizer import Tokenizer
from ramcore.vocabulary import Vocabulary

Picture = Image.Image | str | Path | bytes
"""A PIL image, the path of a file, or a file's bytes."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The first generation of cards with tensor cores; older ones compute in 16 bit slowly or not at all.
_FP16_CAPABILITY = (7, 0)


@dataclass(frozen=True)
class TagResult:
    """The tags of one picture, in vocabulary order: names, Chinese names, ids and scores in (0, 1).

    caption: None where none was asked for.
    """

    tags: tuple[str, ...]
    tags_zh: tuple[str, ...]
    tag_ids: tuple[int, ...]
    scores: tuple[float, ...]
    caption: str | None = None


@dataclass(frozen=True)
class Encoded:
    """Images that have been through the image encoder; for the tagger that made it, and taggers that share its encoder.

    floats: [B, 3, S, S], the encoder's input; embeds: [B, 1 + T, C], None for no images. Both are of the model's dtype
    and on its device.
    """

    floats: Tensor
    embeds: Tensor | None


class Tagger:
    """A model with its vocabulary; made by `ramcore.load`. Keeps no gradients and changes no global state.

    config, device, dtype: those of the model, whose weights must not change any more. bundle: the folder it came from,
    if any. tokenizer: for Tag2Text; without it there are tags and no captions. like: a tagger whose model has the very
    same image encoder, which is then held once.
    """

    def __init__(
        self,
        model: TagModel,
        vocabulary: Vocabulary,
        bundle: Path | None = None,
        tokenizer: Tokenizer | None = None,
        like: "Tagger | None" = None,
    ) -> None:
        if len(vocabulary) != model.config.num_tags:
            raise ValueError(f"{len(vocabulary)} tags in the vocabulary, {model.config.num_tags} in the model")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.bundle = bundle
        self._tokenizer = tokenizer if isinstance(model, Tag2Text) else None
        self._like = like
        self.config = model.config
        self.device = model.tag_weight.device
        self.dtype = model.tag_weight.dtype

    @cached_property
    def bundle_hash(self) -> str:
        """`ramcore.bundle.bundle_hash` of the bundle; "" for a model that came from none. Read once."""
        return bundle_hash(self.bundle) if self.bundle is not None else ""

    @cached_property
    def _fast(self) -> TagModel:
        """What computes: the model in a faster form, made when it is first needed."""
        encoder: Any = None if self._like is None else self._like._fast.visual_encoder
        return for_inference(self.model, encoder)

    @cached_property
    def _captioner(self) -> Captioner | None:
        fast = self._fast
        return Captioner(fast, self._tokenizer) if isinstance(fast, Tag2Text) and self._tokenizer else None

    def release_model(self) -> None:
        """Keep only what computes, which on a CPU is a copy of most weights: `model` is gone after this."""
        if self.dtype == torch.float16:
            raise ValueError("the model is needed where fp16 overflows: keep it")
        _ = self._fast
        del self.model

    def compile(self) -> None:
        """Compute through torch.compile, which takes minutes at the first images, and again at another number of them.

        What it compiled is kept in a folder of the machine (TORCHINDUCTOR_CACHE_DIR) for all processes and later runs.
        """
        # PyTorch's compiler takes no weights in oneDNN's layout: on a CPU it gets the model as it is.
        model = copy.copy(self.model) if self.device.type == "cpu" else self._fast
        for half in ("image_embeds", "tag_logits"):
            setattr(model, half, torch.compile(getattr(model, half)))
        self._fast = model

    @property
    def can_caption(self) -> bool:
        """Whether `captions` works: for Tag2Text only."""
        return self._tokenizer is not None

    def encode(self, pixels: PixelBatch) -> Encoded:
        """What the methods below take in place of pixels, to run the image encoder once for several of them."""
        with torch.inference_mode():
            floats = self._floats(pixels)
            return Encoded(floats, self._embeds(floats))

    def logits(self, pixels: PixelBatch | Encoded) -> Tensor:
        """pixels: uint8 RGB [B, S, S, 3] or [B, 3, S, S], S = config.image_size. Returns float32 [B, N].

        The result is on the model's device. fp16 ends at 65,504: images whose logits are not finite are
        computed a second time in bf16. Raises ValueError for another dtype or shape.
        """
        with torch.inference_mode():
            return self._logits(self._encoded(pixels))

    def scores(self, pixels: PixelBatch | Encoded) -> Tensor:
        """pixels: as for `logits`. Returns float32 [B, N] on the CPU, the sigmoid taken in float32."""
        return self.begin(pixels).scores()

    def begin(self, pixels: PixelBatch | Encoded) -> "PendingScores":
        """Start to compute `scores`. A card goes on while the caller prepares the next images or uses the last scores.

        Raises ValueError as `logits`, and torch.OutOfMemoryError, at once.
        """
        with torch.inference_mode():
            encoded = self._encoded(pixels)
            return PendingScores(self, encoded, self._raw_logits(encoded))

    def captions(self, pixels: PixelBatch | Encoded, given: Sequence[str] | None = None) -> list[str]:
        """One caption per image, from the tags that fire or from given ones. Only for Tag2Text.

        pixels: as for `logits`. given: per image the tags to write about, separated by commas. Raises
        ValueError for a model without captions.
        """
        return self.scores_and_captions(pixels, given)[1]

    def scores_and_captions(
        self, pixels: PixelBatch | Encoded, given: Sequence[str] | None = None
    ) -> tuple[Tensor, list[str]]:
        """What `scores` and `captions` return, with one pass through the image encoder."""
        if self._captioner is None:
            raise ValueError(f"kind {self.config.kind} writes no captions: use a tag2text bundle")
        with torch.inference_mode():
            encoded = self._encoded(pixels)
            scores = self._logits(encoded).sigmoid().cpu()
            if given is None:
                texts = [join_tags([self.vocabulary.tags[tag] for tag in self._fired(row)]) for row in scores]
            else:
                texts = [given_tags(tags) for tags in given]
            return scores, [] if encoded.embeds is None else self._captioner.captions(encoded.embeds, texts)

    def tag(self, picture: Picture, mode: str = "exact", *, caption: bool = False) -> TagResult:
        """The tags of a PIL image, a file, or a file's bytes; with `caption`, also a text (Tag2Text only).

        A tag fires when its score is strictly greater than its threshold, both float32. mode: how files are
        decoded, see `ramcore.images.decode`; a PIL image is always resized exactly as in the reference.
        Raises `ImageError` for a file that is no picture, OSError for one that cannot be read.
        """
        pixels = self.pixels(picture, mode)[None]
        if caption:
            scores, texts = self.scores_and_captions(pixels)
            return self.result(scores[0], texts[0])
        return self.result(self.scores(pixels)[0])

    def result(self, scores: Tensor, caption: str | None = None) -> TagResult:
        """The tags that fire at these scores of one image, float32 [N] on the CPU."""
        fired = self._fired(scores)
        return TagResult(
            tags=tuple(self.vocabulary.tags[tag] for tag in fired),
            tags_zh=tuple(self.vocabulary.tags_zh[tag] for tag in fired),
            tag_ids=tuple(fired),
            scores=tuple(float(scores[tag]) for tag in fired),
            caption=caption,
        )

    def pixels(self, picture: Picture, mode: str = "exact") -> npt.NDArray[np.uint8]:
        """The picture as the model sees it: uint8 RGB [S, S, 3]; arguments and errors as for `tag`."""
        size = self.config.image_size
        if isinstance(picture, Image.Image):
            # Aspect ratio is not kept and nothing is cropped: this is what the model was trained on.
            return np.array(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return decode(data, size, mode).pixels

    def _fired(self, scores: Tensor) -> list[int]:
        return [int(tag) for tag in np.flatnonzero(scores.numpy() > self.vocabulary.thresholds)]

    def _encoded(self, images: PixelBatch | Encoded) -> Encoded:
        return images if isinstance(images, Encoded) else self.encode(images)

    def _floats(self, pixels: PixelBatch) -> Tensor:
        """The model's input: [B, 3, S, S] in its dtype on its device."""
        config = self.config
        floats = normalise(pixels, config.image_size, config.image_mean, config.image_std, self.device)
        return floats.to(self.dtype)

    def _embeds(self, floats: Tensor) -> Tensor | None:
        """What the tags attend to; None for no images, which not every layer takes."""
        if not len(floats):
            return None
        with self._exact():
            return self._fast.image_embeds(floats)

    def _logits(self, encoded: Encoded) -> Tensor:
        logits = self._raw_logits(encoded)
        if self.dtype == torch.float16:
            self._mend_overflow(encoded, logits, logits.isfinite().all(dim=1))
        return logits

    def _raw_logits(self, encoded: Encoded) -> Tensor:
        """float32 [B, N], not finite where fp16 overflowed."""
        if encoded.embeds is None:
            return torch.empty(0, self.config.num_tags, device=self.device)
        with self._exact():
            return self._fast.tag_logits(encoded.embeds).float()

    def _mend_overflow(self, encoded: Encoded, values: Tensor, finite: Tensor) -> None:
        """Compute the logits in `values` a second time where they are not finite: bool [B]."""
        if not finite.all():
            values[~finite] = self._forward_bf16(encoded.floats[~finite.to(self.device)]).to(values.device)

    def _exact(self) -> AbstractContextManager[None]:
        # cuDNN convolves float32 in TF32 by default, with 10 bits of mantissa; fp32 is asked for to be exact.
        exact = self.dtype == torch.float32 and self.device.type == "cuda"
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if exact else nullcontext()

    def _forward_bf16(self, floats: Tensor) -> Tensor:
        # A copy of the weights for one call: overflow is too rare to keep a second model in memory. One image at a
        # time, as no more memory is set aside for it.
        model = self.model
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        cast = {
            name: tensor.bfloat16() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()
        }
        images = floats.bfloat16()[:, None]
        return torch.cat([torch.func.functional_call(model, cast, (image,)) for image in images]).float()


class PendingScores:
    """Scores that a card may still be computing; made by `Tagger.begin`."""

    def __init__(self, tagger: Tagger, encoded: Encoded, logits: Tensor) -> None:
        self._tagger, self._encoded = tagger, encoded
        # Into memory that the card can write to by itself; for the event, see `scores`.
        self._logits = logits.to("cpu", non_blocking=logits.is_cuda)
        self._done = torch.cuda.Event(blocking=True) if logits.is_cuda else None  # type: ignore[no-untyped-call]
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(logits.device))

    def scores(self) -> Tensor:
        """What `Tagger.scores` returns; waits for the card."""
        if self._done is not None:
            self._done.synchronize()
        with torch.inference_mode():
            if self._tagger.dtype == torch.float16:
                self._tagger._mend_overflow(self._encoded, self._logits, self._logits.isfinite().all(dim=1))
            return self._logits.sigmoid()


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is cuda where there is a card, else cpu; raises ValueError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}: give auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r} but PyTorch sees no CUDA card: give auto or cpu")
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in on this device, as `ramcore.load` describes it; ValueError for a bad one."""
    if dtype == "auto":
        return _best_dtype(device)
    chosen = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values() or not isinstance(chosen, torch.dtype):
        raise ValueError(f"dtype is {dtype!r}: give auto, {', '.join(DTYPES)}")
    if chosen == torch.float16 and device.type == "cpu":
        raise ValueError(f"dtype is {dtype!r} on a CPU, which has no fp16 arithmetic: give fp32 or bf16")
    return chosen


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FP16_CAPABILITY:
        return torch.float16
    return torch.float32
