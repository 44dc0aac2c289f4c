"""`ramfleet index` killed with SIGKILL at any moment, and called again."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from indexes import LOCAL_KINDS, needs_package
from synthetic_run import write_run

import pipeline.index
from pipeline.index import Result
from pipeline.stores.local_store import LocalStore

pytestmark = pytest.mark.integration

IMAGES = 4_000
MOST_KILLS = 6
QUERIES = ("*", "tag_3 OR tag_1", "-tag_5 score:0.8", "tag_1*")
# Small steps, so that kills fall between and into many of them.
COMMAND = "import pipeline.index.feed as f; f.COMMIT_ROWS = 200; from jobs.main import main; main()"


def contents(index: Path) -> list[tuple[object, ...]]:
    """All that is found, in an order that does not depend on the index's own."""
    found = []
    with pipeline.index.open(index) as opened:
        for query in QUERIES:
            result: Result = opened.search(query, limit=10_000, facets=1_000)
            hits = sorted((hit.image_id, hit.score, hit.uri, tuple(hit.tags)) for hit in result.hits)
            found.append((query, result.total, hits, result.facets))
    return found


def fed_in_time(command: list[str | Path], patience_s: float | None) -> bool:
    """Whether the command ended by itself, as it should; else it is killed."""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            _, said = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    assert process.returncode == 0, said
    return True


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_killed_again_and_again(kind: str, tmp_path: Path) -> None:
    """An index whose feed was killed many times, over two runs, equals one that was made in one go."""
    needs_package(kind)
    for name, images in (("old", IMAGES), ("new", IMAGES - 900)):
        write_run(LocalStore(tmp_path / name), images, 1)
    killed, whole = tmp_path / f"killed.{kind}", tmp_path / f"whole.{kind}"
    command = [sys.executable, "-c", COMMAND, "index", "--to", kind, "--replace"]
    started = time.monotonic()
    subprocess.run([*command, tmp_path / "new", "--out", whole], check=True, capture_output=True)
    undisturbed_s = time.monotonic() - started
    subprocess.run([*command, tmp_path / "old", "--out", killed], check=True, capture_output=True)
    draw, kills, patience_s = random.Random(kind), 0, undisturbed_s
    while kills < MOST_KILLS:
        # What was fed before a kill is not fed again, so that the next one has to come earlier.
        patience_s *= 0.9
        if fed_in_time([*command, tmp_path / "new", "--out", killed], patience_s * draw.uniform(0.5, 1)):
            subprocess.run([*command, tmp_path / "old", "--out", killed], check=True, capture_output=True)
        else:
            kills += 1
    assert fed_in_time([*command, tmp_path / "new", "--out", killed], None)
    assert contents(killed) == contents(whole)
