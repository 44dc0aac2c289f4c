"""How a replica sits on a node: between the cards, which say what fits, and the Fleet, which starts it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Where and how one replica runs.

    device: "cpu" or "cuda"; threads: CPU threads of the model; dtype: never "auto"; microbatch: images through the
    model at once; memory_share: part of the card's memory that it may take, None = all; compiled: by torch.compile.
    """

    device: str
    threads: int
    num_cpus: float
    num_gpus: float
    dtype: str
    microbatch: int
    memory_share: float | None = None
    compiled: bool = False
