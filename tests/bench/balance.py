"""How evenly a run uses five card types of unequal speed: `make bench`. Prints a line for each card, and the makespan.

The cards are pretended: several Ray nodes on this machine, with the replica of tests/cluster/pretend.py.
"""

import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from ramcore.bundle import demo_bundle

TESTS = Path(__file__).parents[1]


def main() -> None:
    """One run of 640 chunks."""
    sys.path[:0] = [str(TESTS), str(TESTS / "cluster")]
    from balance import CHUNK_ROWS, CHUNKS, SHARES, balanced_run, describe, measure
    from clusters import mixed_cluster, write_manifest
    from runs import draw_pictures

    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as name:
        folder = Path(name)
        draw_pictures(folder / "pictures", 20)
        pictures = sorted((folder / "pictures").iterdir())
        manifest = write_manifest(folder / "rows.csv", pictures, CHUNKS * CHUNK_ROWS)
        with mixed_cluster(folder, list(SHARES)) as cluster:
            run = balanced_run(cluster, manifest, folder / "run", demo_bundle())
            run.finish(600)
            Console().print(describe(measure(cluster, run.out)), markup=False, highlight=False)
    sys.stdout.flush()
    os._exit(0)  # threads of Ray's would hold the process


if __name__ == "__main__":
    main()
