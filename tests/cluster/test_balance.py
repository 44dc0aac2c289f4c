"""Five card types at once, speeds 1 : 2 : 4 : 9 : 16: no card waits for another, and none holds the tail."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balance import CHUNK_ROWS, CHUNKS, SHARES, Balance, balanced_run, describe, measure
from clusters import mixed_cluster
from runs import assert_adds_up

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def balance(
    manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Balance]:
    """One run of 640 chunks."""
    folder = tmp_path_factory.mktemp("balance")
    with mixed_cluster(folder, list(SHARES)) as cluster:
        run = balanced_run(cluster, manifest(CHUNKS * CHUNK_ROWS), folder / "run", tiny_bundle)
        run.finish(400)
        assert_adds_up(run.out, CHUNKS * CHUNK_ROWS)
        yield measure(cluster, run.out)


def test_makespan_is_within_a_tenth_of_the_ideal(balance: Balance) -> None:
    """From the first lease to the last commit, against total work over total speed and one chunk of the fastest."""
    assert balance.stretch <= 1.10, describe(balance)


@pytest.mark.parametrize("card", SHARES)
def test_every_card_does_its_share(balance: Balance, card: str) -> None:
    """Its committed rows are within a tenth of what its speed entitles it to."""
    assert balance.shares[card] == pytest.approx(1, abs=0.1), describe(balance)
