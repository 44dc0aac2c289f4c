"""Figures of fetching from loopback S3: `python -m tests.bench.fetching`, with AWS_ENDPOINT_URL and keys of a server.

The Fetcher against s3fs in threads and against a bare loop over obstore, with as many fetches in flight, in turn.
CPU is that of this process, clients only. Nothing else should be running.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from statistics import median

import botocore.session
import obstore
import s3fs
from obstore.store import ObjectStore
from rich.console import Console
from rich.table import Table

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetching.buckets import bucket_store
from pipeline.fetching.fetcher import Fetcher

OBJECTS = 1000
OBJECT_BYTES = 200_000
IN_FLIGHT = 32
CHUNK_ROWS = 128
ROUNDS = 5


@dataclass
class Way:
    """One way to fetch. rates: objects/s of each round; cpu_ms: of each object, of each round."""

    fetch: Callable[[Sequence[str]], int]
    rates: list[float]
    cpu_ms: list[float]


def main() -> None:
    """Measure and print."""
    table = Table("figure", "value", "unit", title=f"{OBJECTS} objects of {OBJECT_BYTES} bytes, {IN_FLIGHT} in flight")
    for what, value, unit in figures():
        table.add_row(what, f"{value:.3g}", unit)
    Console().print(table)


def figures() -> Iterator[tuple[str, float, str]]:
    """(figure, value, unit)."""
    config = FetchConfig(concurrency=IN_FLIGHT)
    bucket = f"bench-{uuid.uuid4().hex[:8]}"
    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    store = bucket_store("s3", bucket, config, StorageConfig())
    keys = [f"{number:05d}.jpg" for number in range(OBJECTS)]
    try:
        for key in keys:
            obstore.put(store, key, os.urandom(OBJECT_BYTES))
        with Fetcher(config) as fetcher:
            ways = {
                "Fetcher": Way(lambda keys: _by_fetcher(fetcher, bucket, keys), [], []),
                "bare obstore loop": Way(lambda keys: asyncio.run(_by_obstore(store, keys)), [], []),
                "s3fs in threads": Way(lambda keys: _by_s3fs(bucket, keys), [], []),
            }
            yield from _compared(ways, keys)
    finally:
        obstore.delete(store, keys)
        client.delete_bucket(Bucket=bucket)
        client.close()


def _compared(ways: dict[str, Way], keys: list[str]) -> Iterator[tuple[str, float, str]]:
    for way in ways.values():
        way.fetch(keys[:100])
    for _ in range(ROUNDS):
        for way in ways.values():
            start, cpu = time.perf_counter(), time.process_time()
            if way.fetch(keys) != len(keys) * OBJECT_BYTES:
                raise RuntimeError("not all bytes came")
            way.rates.append(len(keys) / (time.perf_counter() - start))
            way.cpu_ms.append((time.process_time() - cpu) * 1000 / len(keys))
    for name, way in ways.items():
        yield f"fetching from loopback S3, {name}", median(way.rates), "objects/s"
        yield "… CPU of the client for each object", median(way.cpu_ms), "ms"
    ours = median(ways["Fetcher"].rates)
    for name in ("s3fs in threads", "bare obstore loop"):
        yield f"Fetcher / {name}", ours / median(ways[name].rates), "×"


def _by_fetcher(fetcher: Fetcher, bucket: str, keys: Sequence[str]) -> int:
    """Chunk by chunk with the next one under way, as a decoder does; it does not wake for each object."""
    chunks = [keys[start : start + CHUNK_ROWS] for start in range(0, len(keys), CHUNK_ROWS)]
    size, coming = 0, [fetcher.begin(f"s3://{bucket}/{key}") for key in chunks[0]]
    for chunk in [*chunks[1:], ()]:
        ready, coming = coming, [fetcher.begin(f"s3://{bucket}/{key}") for key in chunk]
        size += sum(len(future.result().data or b"") for future in wait(ready).done)
    return size


async def _by_obstore(store: ObjectStore, keys: Sequence[str]) -> int:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(key: str) -> int:
        async with slots:
            return len(await (await obstore.get_async(store, key)).bytes_async())

    return sum(await asyncio.gather(*map(one, keys)))


def _by_s3fs(bucket: str, keys: Sequence[str]) -> int:
    fs = s3fs.S3FileSystem(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"], config_kwargs={"max_pool_connections": IN_FLIGHT}
    )
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return sum(len(data) for data in pool.map(lambda key: fs.cat_file(f"{bucket}/{key}"), keys))


if __name__ == "__main__":
    main()
