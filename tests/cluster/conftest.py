"""What the tests of this folder share. Each module has one cluster, which its tests leave as they will."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pretend
import pytest
from clusters import MixedCluster, mixed_cluster, program, surroundings, write_manifest
from losses import OPTIONS, ROWS, SPEEDS
from runs import Run, assert_adds_up, draw_pictures


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A manifest of as many rows as asked for."""
    folder = tmp_path_factory.mktemp("input")
    draw_pictures(folder / "pictures", 20)
    pictures = sorted((folder / "pictures").iterdir())
    return lambda rows: write_manifest(folder / f"{rows}.csv", pictures, rows)


@pytest.fixture(scope="session")
def undisturbed(manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the pretended model on one node that nobody disturbs: what all others of so many rows must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pretend.Orders().write(folder / "orders.json")
    around = surroundings(folder / "orders.json")
    run = Run(manifest(ROWS), folder / "run", tiny_bundle, OPTIONS, around, program=program("Pretended"))
    run.finish()
    assert_adds_up(run.out, ROWS)
    return run.out


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedCluster]:
    """One CPU on each node: all of them are wanted for decoding, so that none is free when a node is lost."""
    with mixed_cluster(tmp_path_factory.mktemp("cluster"), list(SPEEDS), head_cpus=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(standing: MixedCluster) -> MixedCluster:
    """Each card of SPEEDS once, whatever the test before has left."""
    standing.order(images_per_s=SPEEDS)
    for card in SPEEDS:
        for surplus in standing.alive(card)[1:]:
            standing.kill(surplus)
        if not standing.alive(card):
            standing.add(card)
    return standing


@pytest.fixture
def run(cluster: MixedCluster, manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path) -> Run:
    """A run of the pretended model on that cluster."""
    return cluster.run("Pretended", manifest(ROWS), tmp_path / "run", tiny_bundle, OPTIONS)
