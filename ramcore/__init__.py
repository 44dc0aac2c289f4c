"""RAM++ image tagging models in plain torch: no Ray, no network.

    import ramcore

    tagger = ramcore.load("path/to/bundle")
    print(tagger.tag("picture.jpg").tags)

Importing this package is cheap; PyTorch comes in with `load`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramcore.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ramcore.loading import load

    return load
