"""Deterministic synthetic weights: the value of a tensor follows from its state-dict key and shape alone.

README.md has the rule in words. Scales are computed in double and rounded to float32 before multiplying.
"""

import math
import re
import zlib

import numpy as np

COMPUTED = ("relative_position_index", "attn_mask", "position_ids")  # buffers: never generated
FC_GAIN = 3.0
GAIN = {"wordvec_proj": 40.0}


def canonical(key):
    """The key whose value a tied key has."""
    if key == "text_decoder.cls.predictions.decoder.weight":
        return "text_decoder.bert.embeddings.word_embeddings.weight"
    if key == "text_decoder.cls.predictions.decoder.bias":
        return "text_decoder.cls.predictions.bias"
    return re.sub(r"^tag_encoder(\.encoder\.layer\.[01]\.)(?!attention\.)", r"tagging_head\1", key)


def synth(key, shape):
    """The float32 array of this key of a released state dict, or None for a computed buffer."""
    key = canonical(key)
    leaf = key.rsplit(".", 1)[-1]
    if leaf in COMPUTED:
        return None
    if key == "reweight_scale":
        return np.asarray(math.log(1 / 0.07), dtype=np.float32)
    f = np.float32
    z = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape), dtype=f)
    if "norm" in key.lower():
        return f(1) + f(0.1) * z if leaf == "weight" else f(0.1) * z
    if leaf == "relative_position_bias_table":
        return f(0.5) * z
    if key == "label_embed":
        return f(2.0 / math.sqrt(shape[-1])) * z
    if key == "label_embed.weight":
        return z
    if key in ("fc.weight", "fc.W"):
        return f(FC_GAIN / math.sqrt(shape[-1])) * z
    if "embeddings." in key:
        return f(0.15) * z
    if leaf in ("bias", "b"):
        return f(0.1) * z
    fan_in = math.prod(shape[1:])
    return f(GAIN.get(key.split(".")[0], 1.0) / math.sqrt(fan_in)) * z
