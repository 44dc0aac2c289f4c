"""What ramcore raises: one small closed tree, each message naming field, value and remedy."""


class RamcoreError(Exception):
    """Base of every error that ramcore raises on purpose."""


class BundleError(RamcoreError):
    """A folder is not a usable bundle."""


class CheckpointError(RamcoreError):
    """A checkpoint cannot be read, or its keys and shapes are not those of the model."""


class VocabularyError(RamcoreError):
    """Tag, translation or threshold lists do not fit together."""


class ImageError(RamcoreError):
    """An image cannot become pixels.

    kind: one of the error kinds of `ramcore.images`, e.g. "truncated"; detail: one line for a person.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"
