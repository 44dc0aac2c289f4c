"""Fetching in tests."""

from pipeline.config import FetchConfig
from pipeline.fetching.fetcher import Fetcher


def fetch(uri: str, config: FetchConfig | None = None, roots: tuple[str, ...] = ("/",)) -> bytes:
    """One image's bytes, from anywhere on this machine. Raises FetchError."""
    with Fetcher(config or FetchConfig(), roots=roots) as fetcher:
        return fetcher.fetch(uri)
