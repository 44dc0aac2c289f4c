"""What came and went during a run, and how hard machines worked: from the event log, as it streams by."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.report.sketch import Sketch

MarkKind = Literal["joined", "left", "drained", "died", "replica_died"]

_MOST_MARKS = 20_000
_GONE: dict[str, MarkKind] = {"left": "left", "drained": "drained", "died": "died"}
_NOT_ITSELF = ("its node is gone", "its node drains")
_COUNTED = ("strike", "out_of_memory", "card_fault", "lease_lost", "lease_failed", "lease_orphaned", "spilled")


@dataclass(frozen=True)
class Mark:
    """One thing that came or went. at: seconds since 1970; what: the node or replica."""

    at: float
    kind: MarkKind
    what: str


@dataclass
class Samples:
    """How hard cards of one name worked. gpu: % of the time that some kernel ran; power_w: watts; count: readings."""

    count: int = 0
    gpu: float = 0.0
    power_w: float = 0.0

    def add(self, reading: Mapping[str, Any]) -> None:
        """Take in a reading of one card, if it says both."""
        if "gpu" in reading and "power_w" in reading:
            self.count += 1
            self.gpu += reading["gpu"]
            self.power_w += reading["power_w"]


@dataclass
class Life:
    """Of all sessions. marks: as far as there is room; counts: of marks and of other events of note, by name;
    loads: seconds until replicas were ready; samples: by card; cpu: % of the CPUs of each node, now and then."""

    marks: list[Mark] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    loads: Sketch = field(default_factory=Sketch)
    samples: dict[str, Samples] = field(default_factory=dict)
    cpu: Sketch = field(default_factory=Sketch)
    _cards: dict[str, str] = field(default_factory=dict)

    def watch(self, events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same events, taken in on their way."""
        for event in events:
            self._take(event)
            yield event

    def _take(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "node_joined":
                self._cards[event["node"]] = event.get("card", "unknown")
                self._mark(event.get("since", event["at"]), "joined", event["node"])
            case "node_gone":
                self._mark(event["at"], _GONE.get(event.get("cause", ""), "died"), event["node"])
            case "replica_ready" if "load_s" in event:
                self.loads.add([event["load_s"]])
            case "replica_gone" if event.get("cause") not in _NOT_ITSELF:
                self._mark(event["at"], "replica_died", event["replica"])
            case "sample":
                self._sample(event)
            case name if name in _COUNTED:
                self.counts[name] += 1

    def _sample(self, event: Mapping[str, Any]) -> None:
        if "cpu" in event:
            self.cpu.add([event["cpu"]])
        samples = self.samples.setdefault(self._cards.get(event["node"], "unknown"), Samples())
        for reading in event.get("cards", {}).values():
            samples.add(reading)

    def _mark(self, at: float, kind: MarkKind, what: str) -> None:
        self.counts[kind] += 1
        if len(self.marks) < _MOST_MARKS:
            self.marks.append(Mark(float(at), kind, what))
