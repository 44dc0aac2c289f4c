"""Pretended cards: the real command with a replica whose speed, and whose faults, are set by the card of its node.

As a script, `python pretend.py CLASS tag …`, this is `ramfleet tag …` with CLASS of this module as its replica class.

What each card does is read from the file that RAMFLEET_PRETEND names, again and again, so a test can change it in
mid-run. The environment reaches the replicas through the raylets, which the test starts.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.fleet.replica import Replica

ORDERS = "RAMFLEET_PRETEND"
_TOGETHER_TIMEOUT_S = 120.0


@dataclass
class Fault:
    """What goes wrong on a card.

    raise: its constructor fails; nan: every score is NaN; hang: it never answers; die: its process is killed;
    oom: out of memory for more than `above` images at once. after: images that it tags well before.
    """

    kind: Literal["raise", "nan", "hang", "die", "oom"]
    above: int = 0
    after: int = 0


@dataclass
class Orders:
    """What the pretended cards do. images_per_s: by card; faults: by card; together: replicas that wait for each
    other before they are ready, so that a clock can start when all of them do."""

    images_per_s: dict[str, float] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    together: int = 1

    def write(self, file: Path) -> None:
        """Give these orders; a reader never sees half of them."""
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Orders":
        """The orders of this moment."""
        given = json.loads(file.read_text())
        faults = {card: Fault(**fault) for card, fault in given.pop("faults").items()}
        return cls(**given, faults=faults)


class OnCpu(Replica):
    """The real replica with the real model, on the CPU of a node whose GPU is pretended."""

    def __post_init__(self) -> None:
        self.placement = replace(self.placement, device="cpu", memory_share=None)
        super().__post_init__()


class Pretended(OnCpu):
    """The real replica around a pretended model."""

    def __post_init__(self) -> None:
        card = PretendedCard.of_this_node()
        card.load()
        self._card = card
        super().__post_init__()
        card.join_the_others()

    def _load(self) -> Any:
        return PretendedTagger(self.spec.bundle, self._card)


class PretendedCard:
    """The card of this node: how fast it is now, and what is wrong with it. `log`: a line for every micro-batch."""

    def __init__(self, name: str, orders: Path) -> None:
        self._name = name
        self._file = orders
        self._done = 0
        self._ready = False
        self._folder = orders.with_suffix(".work")
        self._folder.mkdir(exist_ok=True)
        self._log = (self._folder / f"{os.getpid()}.jsonl").open("a", buffering=1)

    @classmethod
    def of_this_node(cls) -> "PretendedCard":
        """By the label that Ray gives a node for its card."""
        import ray

        labels = ray.get_runtime_context().get_node_labels()
        return cls(labels.get("ray.io/accelerator-type", "cpu"), Path(os.environ[ORDERS]))

    def load(self) -> None:
        """What happens before the model is there."""
        fault = self._fault()
        self._write("load")
        if fault is not None and fault.kind == "raise":
            raise RuntimeError(f"planted: no kernel image is available for {self._name}")

    def join_the_others(self) -> None:
        """Wait until as many replicas as ordered have been loaded."""
        (self._folder / f"{os.getpid()}.loaded").touch()
        give_up = time.monotonic() + _TOGETHER_TIMEOUT_S
        while len(list(self._folder.glob("*.loaded"))) < Orders.read(self._file).together:
            if time.monotonic() > give_up:
                raise TimeoutError(f"the other replicas were not loaded within {_TOGETHER_TIMEOUT_S:g} s")
            time.sleep(0.05)
        self._ready = True

    def run(self, images: int) -> bool:
        """Take the time that so many images take, or go wrong; whether the scores are to be trusted."""
        fault, begun = self._fault(), time.time()
        if fault is not None and fault.kind == "oom" and images > fault.above:
            self._write("oom", images=images)
            raise _out_of_memory(images)
        if self._ready and fault is not None and self._done >= fault.after:
            self._go_wrong(fault)
        time.sleep(images / Orders.read(self._file).images_per_s.get(self._name, 1000.0))
        if self._ready:
            self._done += images
            self._write("run", images=images, begun=begun)
        return fault is None or fault.kind != "nan" or self._done <= fault.after

    def _fault(self) -> Fault | None:
        return Orders.read(self._file).faults.get(self._name)

    def _go_wrong(self, fault: Fault) -> None:
        if fault.kind in ("hang", "die"):
            self._write(fault.kind)
        if fault.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while fault.kind == "hang":
            time.sleep(1)

    def _write(self, what: str, **more: Any) -> None:
        self._log.write(json.dumps({"at": time.time(), "what": what, "card": self._name, "pid": os.getpid()} | more))
        self._log.write("\n")


def _out_of_memory(images: int) -> Exception:
    import torch

    return torch.OutOfMemoryError(f"CUDA out of memory. Planted for {images} images at once")


class PretendedTagger:
    """In the place of `ramcore.tagger.Tagger`: scores that are a function of each image's pixels alone."""

    def __init__(self, bundle: str, card: PretendedCard) -> None:
        from ramcore.bundle import bundle_hash, read_config, read_vocabulary

        self.bundle_hash = bundle_hash(bundle)
        self.vocabulary = read_vocabulary(bundle)
        self.config = read_config(bundle)
        self._card = card

    def begin(self, pixels: NDArray[np.uint8]) -> SimpleNamespace:
        """Scores that are there at once: float32 [n, tags], the mean of a slice of the image for each tag, in 0 … 1."""
        import torch

        sound = self._card.run(len(pixels))
        slices = np.array_split(pixels.reshape(len(pixels), -1), len(self.vocabulary.tags), axis=1)
        means = np.stack([part.mean(axis=1, dtype=np.float64) / 255 for part in slices], axis=1)
        found = torch.from_numpy(means.astype(np.float32) if sound else np.full(means.shape, np.nan, np.float32))
        return SimpleNamespace(scores=lambda: found)


def work_of(orders: Path) -> list[dict[str, Any]]:
    """All that the pretended cards have written down, in order of time."""
    files = orders.with_suffix(".work").glob("*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["at"])


def main() -> None:
    """The real command line with another replica class."""
    import jobs.main
    import pipeline.tag

    replica_class = globals()[sys.argv.pop(1)]
    pipeline.tag.tag = partial(pipeline.tag.tag, replica_class=replica_class)  # jobs/tag.py imports it when it runs
    jobs.main.main()


if __name__ == "__main__":
    import pretend  # as a module of that name, for the workers import the class from there

    pretend.main()
