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
class CaptionConfig:
    """Tag2Text's caption side: a BERT that reads tags and image, and a BERT that writes.

    Channels, feed-forward width and layer norm epsilon are those of the tagging head, whose layers the tag
    encoder shares. vocab_size: tokens with the two added ones, [DEC] and [ENC], which come last;
    num_positions: longest text in tokens; num_heads: attention heads of both BERTs.
    """

    vocab_size: int = 30524
    num_positions: int = 512
    num_heads: int = 12
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12

    def __post_init__(self) -> None:
        for field in fields(self):
            _positive_int(f"caption.{field.name}", getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to build a model and to prepare its input; `config.json` of a bundle.

    kind: one of `KINDS`.
    swin, head: the two networks.
    embed_dim: channels of the text embeddings that stand for the tags (512: CLIP ViT-B/16); for tag2text, which
        has none, the channels of its visual tokens.
    num_tags, descriptions_per_tag: `label_embed` holds the descriptions tag by tag: the same number for each
        tag, or a tuple with one number per tag (as many times the same one is stored as that number).
        Only ram_plus has more than 1.
    caption: the caption side of tag2text, None for the others.
    image_mean, image_std: normalisation of RGB values in [0, 1].
    demo: True for the bundle that ships with the package and knows drawn scenes only.
    """

    kind: str
    swin: SwinConfig
    head: HeadConfig
    embed_dim: int = 512
    num_tags: int
    descriptions_per_tag: int | tuple[int, ...] = 51
    caption: CaptionConfig | None = None
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    demo: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _bad("kind", self.kind, f"give one of {', '.join(KINDS)}")
        for name in ("embed_dim", "num_tags"):
            _positive_int(name, getattr(self, name))
        _freeze(self, "descriptions_per_tag", _description_counts(self.descriptions_per_tag, self.num_tags))
        self._check_kind()
        for name in ("image_mean", "image_std"):
            _freeze(self, name, _three_numbers(name, getattr(self, name)))
        if min(self.image_std) <= 0:
            raise _bad("image_std", self.image_std, "give numbers above 0")
        if not isinstance(self.demo, bool):
            raise _bad("demo", self.demo, "give true or false")

    def _check_kind(self) -> None:
        if self.kind != "ram_plus" and self.descriptions_per_tag != 1:
            raise _bad("descriptions_per_tag", self.descriptions_per_tag, f"give 1 for kind {self.kind}")
        if (self.caption is not None) != (self.kind == "tag2text"):
            raise _bad("caption", self.caption, "give it for kind tag2text, and for no other")
        if self.caption is None:
            return
        if self.embed_dim != self.swin.num_features:
            raise _bad("embed_dim", self.embed_dim, f"give {self.swin.num_features}, the visual tokens' channels")
        if self.head.hidden_size % self.caption.num_heads:
            remedy = f"give a divisor of head.hidden_size {self.head.hidden_size}"
            raise _bad("caption.num_heads", self.caption.num_heads, remedy)
        if self.caption.num_encoder_layers < self.head.num_layers:
            remedy = f"give at least head.num_layers {self.head.num_layers}, which the tag encoder shares"
            raise _bad("caption.num_encoder_layers", self.caption.num_encoder_layers, remedy)

    @property
    def description_counts(self) -> tuple[int, ...]:
        """Number of descriptions of each tag."""
        counts = self.descriptions_per_tag
        return counts if isinstance(counts, tuple) else (counts,) * self.num_tags

    @property
    def num_descriptions(self) -> int:
        """Descriptions of all tags together: the rows of `label_embed`."""
        return sum(self.description_counts)

    @property
    def image_size(self) -> int:
        """Height and width of the input in pixels."""
        return self.swin.image_size

    def to_json(self) -> str:
        """The config as an indented JSON document that ends in a newline."""
        document = asdict(self)
        if self.caption is None:
            del document["caption"]
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Read what `to_json` wrote; unknown or missing keys and bad values raise `BundleError`."""
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BundleError(f"config.json is not JSON ({error}); convert the checkpoint again") from error
        values = _only_fields(cls, document, "")
        values["swin"] = SwinConfig(**_only_fields(SwinConfig, values["swin"], "swin."))
        values["head"] = HeadConfig(**_only_fields(HeadConfig, values["head"], "head."))
        if values.get("caption") is not None:
            values["caption"] = CaptionConfig(**_only_fields(CaptionConfig, values["caption"], "caption."))
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
    swin = _swin_preset(backbone, image_size)
    return ModelConfig(kind="ram_plus", swin=swin, head=HeadConfig(), num_tags=num_tags)


def ram_preset(backbone: str = "swin_l", image_size: int = 384, num_tags: int = 4585) -> ModelConfig:
    """The released RAM architecture: one embedding per tag; arguments as for `ram_plus_preset`."""
    swin = _swin_preset(backbone, image_size)
    return ModelConfig(kind="ram", swin=swin, head=HeadConfig(), num_tags=num_tags, descriptions_per_tag=1)


def tag2text_preset(backbone: str = "swin_b", image_size: int = 384, num_tags: int = 3429) -> ModelConfig:
    """The released Tag2Text architecture, caption side included; arguments as for `ram_plus_preset`."""
    swin = _swin_preset(backbone, image_size)
    return ModelConfig(
        kind="tag2text",
        swin=swin,
        head=HeadConfig(),
        embed_dim=swin.num_features,
        num_tags=num_tags,
        descriptions_per_tag=1,
        caption=CaptionConfig(),
    )


def _swin_preset(backbone: str, image_size: int) -> SwinConfig:
    if backbone not in SWIN_PRESETS:
        raise _bad("backbone", backbone, f"give one of {', '.join(SWIN_PRESETS)}")
    return SWIN_PRESETS[backbone](image_size)


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


def _description_counts(value: object, num_tags: int) -> int | tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        return _positive_int("descriptions_per_tag", value)
    counts = _positive_ints("descriptions_per_tag", value)
    if len(counts) != num_tags:
        raise _bad("descriptions_per_tag", f"a list of {len(counts)}", f"give one number per tag, {num_tags}")
    # One way to write each model, so that equal models have equal configs and hashes.
    return counts[0] if len(set(counts)) == 1 else counts


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
