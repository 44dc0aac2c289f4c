"""A model's config from the names and shapes of its tensors."""

import math
import re
from collections.abc import Mapping

from ramcore.config import CaptionConfig, HeadConfig, ModelConfig, SwinConfig
from ramcore.errors import BundleError, CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

# What sizes are read from, with the number of dimensions each must have.
_ANCHORS = {
    "visual_encoder.patch_embed.proj.weight": 4,
    "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table": 2,
    "tagging_head.encoder.layer.0.intermediate.dense.weight": 2,
}
_TEXT_ANCHORS = {"label_embed": 2, "wordvec_proj.weight": 2}
_CAPTION_ANCHORS = {
    "label_embed.weight": 2,
    "text_decoder.bert.embeddings.word_embeddings.weight": 2,
    "text_decoder.bert.embeddings.position_embeddings.weight": 2,
}
_BIAS_TABLE = re.compile(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table")


def infer_config(kind: str, shapes: Shapes, num_tags: int) -> ModelConfig:
    """The config of a model whose state dict (in our names) has these shapes.

    Numbers of attention heads of the tagging head (4) and of the BERTs (12), and the layer norm epsilon leave no
    trace in the shapes and are the released models'. The image size is the one at which the last stage is one
    window, as in all released models. Raises `CheckpointError` where a size cannot be read or contradicts
    num_tags.
    """
    anchors = (_CAPTION_ANCHORS if kind == "tag2text" else _TEXT_ANCHORS) | _ANCHORS
    lost = [key for key, ndim in anchors.items() if len(shapes.get(key, ())) != ndim]
    if lost:
        raise CheckpointError(f"this is no {kind} checkpoint: missing or misshapen {', '.join(lost)}")
    label_embed = "label_embed.weight" if kind == "tag2text" else "label_embed"
    rows, channels = shapes[label_embed]
    _check_rows(kind, label_embed, rows, num_tags)
    try:
        swin = _infer_swin(shapes)
        return ModelConfig(
            kind=kind,
            swin=swin,
            head=_infer_head(shapes, label_embed if kind == "tag2text" else "wordvec_proj.weight"),
            embed_dim=swin.num_features if kind == "tag2text" else channels,
            num_tags=num_tags,
            descriptions_per_tag=rows // num_tags,
            caption=_infer_caption(shapes) if kind == "tag2text" else None,
        )
    except BundleError as error:
        raise CheckpointError(f"the shapes in this checkpoint make no model: {error}") from error


def _check_rows(kind: str, label_embed: str, rows: int, num_tags: int) -> None:
    if rows % num_tags if kind == "ram_plus" else rows != num_tags:
        relation = "not a multiple of" if kind == "ram_plus" else "not"
        raise CheckpointError(
            f"{label_embed} has {rows} rows, {relation} the {num_tags} tags in the list: "
            "give the tag list that this checkpoint was trained with"
        )


def _infer_head(shapes: Shapes, hidden_anchor: str) -> HeadConfig:
    hidden = shapes[hidden_anchor]
    return HeadConfig(
        hidden_size=hidden[1] if hidden_anchor == "label_embed.weight" else hidden[0],
        intermediate_size=shapes["tagging_head.encoder.layer.0.intermediate.dense.weight"][0],
        num_layers=_count_layers(shapes, "tagging_head.encoder.layer."),
    )


def _infer_caption(shapes: Shapes) -> CaptionConfig:
    return CaptionConfig(
        vocab_size=shapes["text_decoder.bert.embeddings.word_embeddings.weight"][0],
        num_positions=shapes["text_decoder.bert.embeddings.position_embeddings.weight"][0],
        num_encoder_layers=_count_layers(shapes, "tag_encoder.encoder.layer."),
        num_decoder_layers=_count_layers(shapes, "text_decoder.bert.encoder.layer."),
    )


def _count_layers(shapes: Shapes, prefix: str) -> int:
    numbers = {key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)


def _infer_swin(shapes: Shapes) -> SwinConfig:
    heads: dict[int, int] = {}
    depths: dict[int, int] = {}
    for key, shape in shapes.items():
        match = _BIAS_TABLE.fullmatch(key)
        if match:
            stage, block = int(match[1]), int(match[2])
            heads[stage] = shape[-1]
            depths[stage] = max(depths.get(stage, 0), block + 1)
    stages = range(max(depths) + 1)
    rows = shapes["visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"][0]
    window = (math.isqrt(rows) + 1) // 2
    embed_dim, _, patch_size, _ = shapes["visual_encoder.patch_embed.proj.weight"]
    return SwinConfig(
        image_size=patch_size * 2 ** stages[-1] * window,
        patch_size=patch_size,
        embed_dim=embed_dim,
        # A stage without any block is reported as missing keys once the expected ones are known.
        depths=tuple(depths.get(stage, 1) for stage in stages),
        num_heads=tuple(heads.get(stage, 1) for stage in stages),
        window_size=window,
    )
