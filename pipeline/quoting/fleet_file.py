"""The fleet file: what may be rented, and the assumptions under which a quote is made. YAML, checked as a whole."""

import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.text_files import read_text
from pipeline.yaml_text import read_yaml

Market = Literal["on_demand", "spot"]
Count = Annotated[int, Field(ge=0, le=100_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
_PLAINLY = {
    "too_short": "write at least one entry",
    "tuple_type": "write a list",
    "extra_forbidden": "unknown key (docs/quote.md has those that there are)",
    "model_type": "write keys with values",
}
"""Faults by their type, where the library's words are about its own types."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeOffer(_Entry):
    """One kind of node that may be rented. Times are means; what is drawn about them is in `Assumptions`."""

    name: Text | None = None
    """Unique in the file; instance type or card, with the market, where it is not given."""
    card: Text | None = None
    """As Ray or its driver names it ("A10G", "GeForce RTX 3090"); "cpu" for a node without one."""
    instance_type: Text | None = None
    """As the cloud names it: for prices of instances, and for `ray up`."""
    vram_gib: Annotated[Positive, Field(le=10_000)] | None = None
    """Memory of a card in GiB, where cards of one name have more or less of it."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """Cards of a node."""
    cpus: Annotated[Positive, Field(le=100_000)] | None = None
    """Threads of a node that decode; unknown: decoding is taken to keep up."""
    link_mbit_s: Positive | None = None
    """What a node can receive, in megabit/s; unknown: the network is taken to keep up."""
    most_nodes: Annotated[int, Field(ge=1, le=100_000)]
    """So many of them can be had."""
    least_nodes: Count = 0
    """So many of them are taken in any case."""
    market: Market = "on_demand"
    """Which of its prices counts."""
    region: Text | None = None
    """Region or zone whose price counts; none = the lowest there is."""
    preemptions_per_hour: Amount = 0.0
    """Of one node, on average. Another one is started in its place."""
    startup_minutes: Amount = 5.0
    """From asking for a node to processes running on it: provisioning, boot, image."""
    startup_is_billed: bool = True
    """Whether these minutes are paid for."""
    images_per_s: Annotated[Positive, Field(le=1e6)] | None = None
    """Of one card, as you measured it; otherwise from profiles or the model of the card."""

    @property
    def label(self) -> str:
        """What the offer is called."""
        if self.name is not None:
            return self.name
        kind = self.instance_type or (self.card if self.gpus == 1 else f"{self.gpus}x{self.card}")
        return f"{kind}-spot" if self.market == "spot" else str(kind)

    @model_validator(mode="after")
    def _is_something(self) -> "NodeOffer":
        if self.card is None and self.instance_type is None:
            raise ValueError("neither card nor instance_type is given: name one of them")
        if self.card is None and self.images_per_s is None:
            raise ValueError("its card is not given: name it, or give images_per_s")
        if self.card == "cpu" and self.images_per_s is None:
            raise ValueError("nothing tells the speed of a CPU: give images_per_s of one node")
        if self.least_nodes > self.most_nodes:
            raise ValueError(f"least_nodes {self.least_nodes} is over most_nodes {self.most_nodes}")
        return self


class Assumptions(_Entry):
    """What a quote assumes about the work and about chance. Every default is a guess that a measured run replaces."""

    image_kb: Positive = 150.0
    """Bytes of an image as it is fetched, in 1,000; the mean."""
    decode_ms: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] = 4.0
    """Of one thread for decoding and resizing an image; 3–5 for web-size photographs, 90 for 10 megapixels."""
    load_seconds: Amount = 45.0
    """From a process that starts to a model that answers."""
    run_seconds: Amount = 60.0
    """Of the whole run beside tagging, with all nodes paid for: start of Ray, plan, final tables."""
    modelled_share: tuple[Positive, Positive] = (0.5, 0.8)
    """What cards reach of the images/s that are modelled for them, which are ceilings: between these two."""
    measured_spread: Amount = 0.03
    """Relative error (one sigma) of images/s that were measured."""
    node_spread: Amount = 0.05
    """Relative spread (one sigma) of nodes of one kind."""
    lease_spread: Amount = 0.1
    """The same of pieces of work on one node, where no run was measured."""
    startup_spread: Amount = 0.3
    """The same of the minutes that nodes take to start, and of the seconds that models take to load."""
    straggler_share: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Part of the pieces of work that take longer …"""
    straggler_factor: Annotated[float, Field(ge=1, le=1000)] = 3.0
    """… by this factor."""
    notice_seconds: Amount = 5.0
    """From a node's death to others taking over its work."""

    @model_validator(mode="after")
    def _in_order(self) -> "Assumptions":
        low, high = self.modelled_share
        if not low <= high <= 1:
            raise ValueError(f"modelled_share [{low:g}, {high:g}] is no range up to 1: the lower share first")
        return self


class FleetFile(_Entry):
    """What a fleet file holds."""

    nodes: Annotated[tuple[NodeOffer, ...], Field(min_length=1)]
    assumptions: Assumptions = Assumptions()

    @model_validator(mode="after")
    def _names_differ(self) -> "FleetFile":
        names = [offer.label for offer in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several nodes are called {', '.join(twice)}: give each a name")
        return self


def load_fleet(path: str | Path) -> FleetFile:
    """Read a fleet file. Raises ConfigError that names every wrong field with its value, all at once."""
    text = read_text(path, "fleet")
    return parse_fleet(text, f"fleet={path}")


def parse_fleet(text: str, source: str) -> FleetFile:
    """The fleet of a YAML document; source: how errors name it."""
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: holds no keys: it needs a list `nodes` of what may be rented")
    try:
        return FleetFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_faults(error, source))) from error


def dump_fleet(fleet: FleetFile) -> str:
    """A fleet as YAML that reads back as the same."""
    tree = fleet.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def chosen_fleet(fleet: FleetFile, mix: Iterable[tuple[str, int]]) -> FleetFile:
    """The fleet of exactly so many nodes of each name; quoting it predicts this very mix."""
    counts = dict(mix)
    nodes = [
        offer.model_copy(update={"name": offer.label, "least_nodes": n, "most_nodes": n})
        for offer in fleet.nodes
        if (n := counts.get(offer.label, 0))
    ]
    return fleet.model_copy(update={"nodes": tuple(nodes)})


def explain_faults(error: ValidationError, source: str) -> list[str]:
    """One line for each wrong field."""
    lines: dict[str, str] = {}
    faults = error.errors()
    for fault in faults:
        if any(len(other["loc"]) > len(fault["loc"]) == _in_common(other["loc"], fault["loc"]) for other in faults):
            continue  # what follows from a fault inside it, such as a list without an entry that is right
        place = ".".join(str(part) for part in fault["loc"])
        shown = f"={reprlib.repr(fault['input'])}" if fault["type"] not in ("missing", "value_error") else ""
        message = _PLAINLY.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        name = f" {place}{shown}:" if place else ""
        lines.setdefault(place, f"{source}:{name} {message[:1].lower()}{message[1:]}")
    return list(lines.values())


def _in_common(one: Sequence[int | str], other: Sequence[int | str]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
