"""From tags to search: a run becomes an index, and an index answers queries (docs/how-to/search.md).

import pipeline.index

with pipeline.index.open("run") as index:
    for hit in index.search("dog AND (beach OR sand) -person", limit=10).hits:
        print(hit.image_id, hit.score)
"""

from pathlib import Path

from pipeline.index.search import Facet, Hit, Index, Result, TagScore

__all__ = ["Facet", "Hit", "Index", "Result", "TagScore", "open"]


def open(path: str | Path) -> Index:
    """An index by its file, folder or address, or by the folder of the run that it lies in.

    Raises InputError where there is none, MissingPackageError if it needs a package that is not installed.
    """
    return Index(str(path))
