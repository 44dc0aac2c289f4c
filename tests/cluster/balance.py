"""How evenly a run used cards of unequal speed, from its events and its telemetry."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from clusters import MixedCluster, events_of, telemetry
from pretend import work_of
from runs import Run

SHARES = {"GeForce-RTX-2080": 1, "T4": 2, "L4": 4, "A10G": 9, "A100": 16}
"""Five card types and how fast they are against each other."""
CHUNK_ROWS, CHUNKS = 16, 640
UNIT_IMAGES_PER_S = 4.6
"""Of the slowest card; all together then take about 70 s, and leave this machine's own two cores mostly idle."""


@dataclass(frozen=True)
class Balance:
    """makespan_s: from the first lease to the last commit; ideal_s: the total work over the total speed and one chunk
    of the fastest card; shares: each card's part of the committed rows over its part of the speed (1 = fair);
    busy: part of the makespan that each card spent in its model."""

    makespan_s: float
    ideal_s: float
    shares: dict[str, float]
    busy: dict[str, float]

    @property
    def stretch(self) -> float:
        """Makespan over ideal."""
        return self.makespan_s / self.ideal_s


def balanced_run(cluster: MixedCluster, rows: Path, out: Path, bundle: Path) -> Run:
    """All cards of SHARES, which are ready at the same time."""
    speeds = {card: share * UNIT_IMAGES_PER_S for card, share in SHARES.items()}
    cluster.order(images_per_s=speeds, together=len(cluster.alive()))
    return cluster.run("Pretended", rows, out, bundle, [f"plan.chunk_rows={CHUNK_ROWS}"])


def measure(cluster: MixedCluster, out: Path) -> Balance:
    """The figures of a finished run of `balanced_run`."""
    leases, commits = events_of(out, "lease"), events_of(out, "commit")
    makespan = commits[-1]["at"] - leases[0]["at"]
    speed = sum(SHARES.values()) * UNIT_IMAGES_PER_S
    committed = telemetry(out).groupby("card")["images"].sum()
    fair = {card: committed.sum() * share / sum(SHARES.values()) for card, share in SHARES.items()}
    worked = Counter[str]()
    for line in work_of(cluster.orders_file):
        if line["what"] == "run":
            worked[line["card"]] += line["images"]
    return Balance(
        makespan_s=makespan,
        ideal_s=committed.sum() / speed + CHUNK_ROWS / (max(SHARES.values()) * UNIT_IMAGES_PER_S),
        shares={card: float(committed.get(card, 0) / fair[card]) for card in SHARES},
        busy={card: worked[card] / (share * UNIT_IMAGES_PER_S) / makespan for card, share in SHARES.items()},
    )


def describe(balance: Balance) -> str:
    """The figures as lines of text."""
    lines = [
        f"{card:<18} speed {SHARES[card]:>2}   rows / fair share {share:.3f}   busy {balance.busy[card]:.3f}"
        for card, share in balance.shares.items()
    ]
    figures = f"makespan {balance.makespan_s:.2f} s, ideal {balance.ideal_s:.2f} s, stretch {balance.stretch:.3f}"
    return "\n".join([*lines, figures])
