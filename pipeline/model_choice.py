"""How the model of a run is used: number type and captions, resolved once and refused where they cannot work."""

from collections.abc import Collection
from typing import Literal

from pipeline.config import Config
from pipeline.errors import ClusterError, ConfigError
from ramcore.config import ModelConfig

_CPU_REMEDY = "a CPU has no fp16 arithmetic: give model.dtype=fp32 or bf16"
_FINENESS = ("fp16", "bf16", "fp32")
"""Number types in the order in which one of them stands for a run of several."""


def writes_captions(asked: Literal["auto"] | bool, model: ModelConfig) -> bool:
    """Whether the run has captions; auto = where the model can. Raises ConfigError where it cannot and is asked to."""
    able = model.caption is not None
    if asked is True and not able:
        raise ConfigError(
            f"output.captions=true: a model of kind {model.kind} writes no captions; "
            "give --model a tag2text bundle, or output.captions=auto"
        )
    return able if asked == "auto" else asked


def check_before_cluster(config: Config, model: ModelConfig) -> None:
    """Refuse what can be known to fail before a cluster starts. Raises ConfigError."""
    writes_captions(config.output.captions, model)
    if config.model.dtype == "fp16" and config.fleet.use_cpu is True:
        raise ConfigError(f"model.dtype=fp16 with fleet.use_cpu=true: {_CPU_REMEDY}")
    if config.fleet.mixed_dtype and config.model.dtype != "auto":
        raise ConfigError(
            f"fleet.mixed_dtype=true with model.dtype={config.model.dtype}: cards cannot each choose what is given; "
            "leave one of them out"
        )


def resolve_dtype(asked: str, planned: str | None, preferred: Collection[tuple[str, str]], mixed: bool = False) -> str:
    """The number type of the whole run, so that every card decides alike.

    planned: of a run that is gone on with, which stays; preferred: device ("cpu" or "cuda") and best number type of
    every place for replicas; mixed: each of them takes its own, and what is returned stands for the run in its plan.
    Raises ClusterError where a replica could not compute in it, and would fail at every start.
    """
    if planned is None and asked == "auto":
        dtypes = {dtype for _, dtype in preferred}
        if len(dtypes) == 1 or mixed:
            return min(dtypes, key=_FINENESS.index)
        return "fp32"
    dtype = planned or asked
    if dtype == "fp16" and not mixed and any(device == "cpu" for device, _ in preferred):
        if planned is not None:
            raise ClusterError(
                "model.dtype: the run was planned with fp16, and replicas would run on CPUs now, which have no fp16 "
                "arithmetic: go on where the cluster has a GPU, or choose another --out"
            )
        raise ClusterError(f"model.dtype=fp16: the cluster offers replicas CPUs only, and {_CPU_REMEDY}")
    return dtype
