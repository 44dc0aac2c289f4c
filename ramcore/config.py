"""What a model is made of, as frozen dataclasses that read from and write to `config.json` of a bundle.

Every value is checked on construction; a bad one raises `BundleError` naming field, value and remedy.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any

from ramcore.errors import BundleError

KINDS = ("ram_plus", "ram", "tag2text")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """A Swin Transformer image encoder (arXiv:2103.14030).

    image_size: height and width of the input in pixels, a multiple of patch_size · 2^(stages − 1).
    patch_size: side of a patch in pixels.
    embed_dim: channels of the first stage; each later stage has twice as many.
    depths, num_heads: blocks and attention heads per stage.
    window_size: side of an attention window in tokens; it must divide every stage's map that is larger.
    drop_path_rate: share of residual branches dropped in training, in [0, 1); without effect in inference.
    """

    image_size: int
    patch_size: int = 4
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "embed_dim", "window_size"):
            _positive_int(f"swin.{name}", getattr(self, name))
        for name in ("depths", "num_heads"):
            _freeze(self, name, _positive_ints(f"swin.{name}", getattr(self, name)))
        if len(self.depths) != len(self.num_heads):
            raise _bad("swin.num_heads", self.num_heads, f"give {len(self.depths)} numbers, one per stage")
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                remedy = f"number {stage} must divide the {self.embed_dim * 2**stage} channels of its stage"
                raise _bad("swin.num_heads", self.num_heads, remedy)
        if not 0 <= _number("swin.drop_path_rate", self.drop_path_rate) < 1:
            raise _bad("swin.drop_path_rate", self.drop_path_rate, "give a number in [0, 1)")
        self._check_geometry()

    def _check_geometry(self) -> None:
        step = self.patch_size * 2 ** (len(self.depths) - 1)
        if self.image_size % step:
            raise _bad("swin.image_size", self.image_size, f"give a multiple of {step}")
        for side in self.map_sizes:
            if side % min(self.window_size, side):
                remedy = f"give a divisor of {side}, a stage's map side at image size {self.image_size}"
                raise _bad("swin.window_size", self.window_size, remedy)

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Side of each stage's token map, e.g. (96, 48, 24, 12) for 384 pixels."""
        return tuple(self.image_size // self.patch_size // 2**stage for stage in range(len(self.depths)))

    @property
    def window_sizes(self) -> tuple[int, ...]:
        """Side of each stage's attention window: `window_size`, or the whole map where that is smaller."""
        return tuple(min(self.window_size, side) for side in self.map_sizes)

    @property
    def num_features(self) -> int:
        """Channels of the visual tokens, i.e. of the last stage."""
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    @property
    def num_tokens(self) -> int:
        """Visual tokens per image with the pooled one, e.g. 145 at 384 pixels."""
        return 1 + self.map_sizes[-1] ** 2


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The tagging head: layers of cross-attention from tags to visual tokens, then a feed-forward block.

    hidden_size: channels per tag; num_heads divides it; intermediate_size: channels inside the feed-forward
    block; layer_norm_eps: epsilon of the layer norms, > 0.
    """

    hidden_size: int = 768
    num_heads: int = 4
    intermediate_size: int = 3072
    num_layers: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_heads", "intermediate_size", "num_layers"):
            _positive_int(f"head.{name}", getattr(self, name))
        if self.hidden_size % self.num_heads:
            raise _bad("head.num_heads", self.num_heads, f"give a divisor of hidden_size {self.hidden_size}")
        if _number("head.layer_norm_eps", self.layer_norm_eps) <= 0:
            raise _bad("head.layer_norm_eps", self.layer_norm_eps, "give a number above 0")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to build a model and to prepare its input; `config.json` of a bundle.

    kind: one of `KINDS`.
    swin, head: the two networks.
    embed_dim: channels of the text embeddings that stand for the tags (512: CLIP ViT-B/16).
    num_tags, descriptions_per_tag: `label_embed` has num_tags · descriptions_per_tag rows, tag by tag.
    image_mean, image_std: normalisation of RGB values in [0, 1].
    demo: True for the bundle that ships with the package and knows drawn scenes only.
    """

    kind: str
    swin: SwinConfig
    head: HeadConfig
    embed_dim: int = 512
    num_tags: int
    descriptions_per_tag: int = 51
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    demo: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _bad("kind", self.kind, f"give one of {', '.join(KINDS)}")
        for name in ("embed_dim", "num_tags", "descriptions_per_tag"):
            _positive_int(name, getattr(self, name))
        for name in ("image_mean", "image_std"):
            _freeze(self, name, _three_numbers(name, getattr(self, name)))
        if min(self.image_std) <= 0:
            raise _bad("image_std", self.image_std, "give numbers above 0")
        if not isinstance(self.demo, bool):
            raise _bad("demo", self.demo, "give true or false")

    @property
    def image_size(self) -> int:
        """Height and width of the input in pixels."""
        return self.swin.image_size

    def to_json(self) -> str:
        """The config as an indented JSON document that ends in a newline."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Read what `to_json` wrote; unknown or missing keys and bad values raise `BundleError`."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"config.json is not JSON ({error}); convert the checkpoint again") from error
        values = _only_fields(cls, document, "")
        values["swin"] = SwinConfig(**_only_fields(SwinConfig, values["swin"], "swin."))
        values["head"] = HeadConfig(**_only_fields(HeadConfig, values["head"], "head."))
        return cls(**values)


def swin_l(image_size: int = 384, drop_path_rate: float = 0.0) -> SwinConfig:
    """Swin-L as in the released RAM++ and RAM: 384 pixels with window 12, or 224 with window 7."""
    return _released_swin(image_size, 192, (6, 12, 24, 48), drop_path_rate)


def swin_b(image_size: int = 384, drop_path_rate: float = 0.0) -> SwinConfig:
    """Swin-B as in the released Tag2Text: 384 pixels with window 12, or 224 with window 7."""
    return _released_swin(image_size, 128, (4, 8, 16, 32), drop_path_rate)


SWIN_PRESETS: Mapping[str, Callable[[int], SwinConfig]] = {"swin_l": swin_l, "swin_b": swin_b}


def ram_plus_preset(backbone: str = "swin_l", image_size: int = 384, num_tags: int = 4585) -> ModelConfig:
    """The released RAM++ architecture: 51 descriptions per tag, two head layers of width 768.

    backbone: a key of `SWIN_PRESETS`; image_size: 384 or 224. Anything else raises `BundleError`.
    """
    if backbone not in SWIN_PRESETS:
        raise _bad("backbone", backbone, f"give one of {', '.join(SWIN_PRESETS)}")
    swin = SWIN_PRESETS[backbone](image_size)
    return ModelConfig(kind="ram_plus", swin=swin, head=HeadConfig(), num_tags=num_tags)


def _released_swin(image_size: int, embed_dim: int, num_heads: tuple[int, ...], drop_path_rate: float) -> SwinConfig:
    if image_size not in (224, 384):
        raise _bad("swin.image_size", image_size, "the released models have 224 or 384")
    return SwinConfig(
        image_size=image_size,
        embed_dim=embed_dim,
        depths=(2, 2, 18, 2),
        num_heads=num_heads,
        window_size=image_size // 32,
        drop_path_rate=drop_path_rate,
    )


def _bad(field: str, value: object, remedy: str) -> BundleError:
    return BundleError(f"model config: {field} is {value!r}: {remedy}")


def _freeze(instance: object, name: str, value: object) -> None:
    # JSON has lists where the dataclass has tuples; a frozen dataclass can only be corrected this way.
    object.__setattr__(instance, name, value)


def _positive_int(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad(field, value, "give a whole number of at least 1")
    return value


def _positive_ints(field: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _bad(field, value, "give a list of whole numbers, one per stage")
    return tuple(_positive_int(field, item) for item in value)


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _bad(field, value, "give a number")
    return float(value)


def _three_numbers(field: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise _bad(field, value, "give three numbers, one per colour")
    return tuple(_number(field, item) for item in value)


def _only_fields(cls: Any, document: object, prefix: str) -> dict[str, Any]:
    """The document if its keys are exactly the fields of `cls` (those with defaults may be missing)."""
    if not isinstance(document, dict):
        raise _bad(prefix.rstrip(".") or "config.json", document, "give a JSON object")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}
    for key in document:
        if key not in known:
            raise _bad(prefix + key, document[key], f"unknown key, remove it; known: {', '.join(known)}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in document]
    if missing:
        raise _bad(prefix + missing[0], None, f"missing key, add it; missing: {', '.join(missing)}")
    return dict(document)
