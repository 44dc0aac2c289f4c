"""How often pixels are copied: once into the store of the node that decodes them, and over the network at most once."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clusters import MixedCluster, mixed_cluster
from losses import CHUNK_ROWS, OPTIONS
from runs import Run, assert_adds_up

from pipeline.tables.schemas import attempt_of

pytestmark = pytest.mark.cluster

SPEEDS = {"T4": 40.0, "A10G": 80.0, "A100": 160.0}
CHUNKS = 75
SLACK_BYTES = 2 << 20
"""For a node's objects that are not pixels."""


@pytest.fixture(scope="module")
def finished(
    manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MixedCluster, Run, dict[str, int]]]:
    """A run on three nodes, and the bytes that it has created in each node's store by the raylets' own count."""
    folder = tmp_path_factory.mktemp("links")
    with mixed_cluster(folder, list(SPEEDS)) as cluster:
        cluster.order(images_per_s=SPEEDS, together=len(SPEEDS))
        run = cluster.run("Pretended", manifest(CHUNKS * CHUNK_ROWS), folder / "run", tiny_bundle, OPTIONS)
        before = cluster.bytes_stored()
        run.finish()
        after = cluster.bytes_stored()
        assert_adds_up(run.out, CHUNKS * CHUNK_ROWS)
        yield cluster, run, {name: after[name] - before[name] for name in after}


def pixel_bytes(run: Run, images: int) -> int:
    """uint8 [images, size, size, 3]."""
    size: int = json.loads((run.bundle / "config.json").read_text())["swin"]["image_size"]
    return images * size * size * 3


def decoded_and_received(cluster: MixedCluster, run: Run) -> tuple[Counter[str], Counter[str]]:
    """Images that each node decoded, and images of chunks that it tagged some of but another had decoded."""
    names = {node.node_id: node.name for node in cluster.nodes}
    decoded, received = Counter[str](), Counter[str]()
    for file in (run.out / "chunks").iterdir():
        attempt = attempt_of(pq.read_schema(file))
        at = attempt["decode_node_id"]
        decoded[names[at]] += sum(piece["images"] for piece in attempt["pieces"])
        for node_id in {piece["node_id"] for piece in attempt["pieces"]} - {at}:
            received[names[node_id]] += sum(piece["images"] for piece in attempt["pieces"])
    return decoded, received


def test_pixels_cross_the_network_at_most_once(
    finished: tuple[MixedCluster, Run, dict[str, int]], record_property: Callable[[str, object], None]
) -> None:
    """A node's store holds what was decoded there, once, and what had to come from elsewhere, once."""
    cluster, run, stored = finished
    decoded, received = decoded_and_received(cluster, run)
    due = {name: pixel_bytes(run, decoded[name] + received[name]) for name in stored}
    table = "\n".join(
        f"{name:<8} decoded {pixel_bytes(run, decoded[name]) / 1e6:6.1f} MB, had to receive "
        f"{pixel_bytes(run, received[name]) / 1e6:6.1f} MB, stored {stored[name] / 1e6:6.1f} MB"
        for name in stored
    )
    record_property("bytes of pixels per node", table)
    assert sum(stored.values()) >= pixel_bytes(run, CHUNKS * CHUNK_ROWS), f"the raylets' count is no measure\n{table}"
    assert all(stored[name] <= due[name] + SLACK_BYTES for name in stored), table
