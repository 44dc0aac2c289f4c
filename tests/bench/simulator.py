"""How long the simulator takes for a fleet of the size that it is made for: `python -m tests.bench.simulator`.

200 nodes of 19 card types, a hundred million images in chunks of real size; links, decoding, preemptions, stragglers.
"""

import sys
import time

from pipeline.quoting.fleet_file import Assumptions
from pipeline.quoting.simulate import Job, NodeKind, coarse_rows, simulate

COUNTS = [10] * 18 + [20]
IMAGES = 100_000_000


def main() -> None:
    """Two runs: real chunks, and coarse ones as a quote takes them for a run among many."""
    kinds = [
        NodeKind(
            name=f"card-{i}",
            images_per_s=20.0 + 10 * i,
            microbatch=16,
            startup_s=300,
            load_s=45,
            preemptions_per_hour=0.1,
            workers=4,
            supply_per_s=1000,
            link_bytes_per_s=1.25e9,
        )
        for i in range(len(COUNTS))
    ]
    for rows in (256, coarse_rows(kinds, COUNTS, Job(IMAGES), 20_000)):
        began = time.perf_counter()
        run = simulate(kinds, COUNTS, Job(IMAGES, rows, 150_000, 442_368), Assumptions())
        sys.stdout.write(
            f"chunks of {rows:,}: {run.seconds / 3600:.3f} h simulated in {time.perf_counter() - began:.1f} s, "
            f"{run.leases:,} leases, {sum(kind.preemptions for kind in run.kinds)} preemptions, {run.redone:,} redone\n"
        )


if __name__ == "__main__":
    main()
