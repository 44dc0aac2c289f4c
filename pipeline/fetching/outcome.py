"""What comes of a fetch: bytes, or why there are none."""

from dataclasses import dataclass

from pipeline.error_kinds import ERROR_KINDS


class FetchError(Exception):
    """The bytes of an image cannot be had.

    kind: an error kind, mostly of the stage "fetch"; detail: one line without credentials; attempts: how many were
    made; retry_after_s: what the source asked for; repeated: whether to try again at once, if not as the kind says.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        retry_after_s: float | None = None,
        repeated: bool | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.repeated = ERROR_KINDS[kind].repeated if repeated is None else repeated
        self.attempts = attempts

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(frozen=True)
class Fetched:
    """One image's fetch. data: None if there is an error; seconds: of all attempts, without the waits between."""

    data: bytes | None
    seconds: float
    attempts: int
    error: FetchError | None = None


@dataclass(frozen=True)
class Content:
    """Bytes of an object, or of a span of it. total_bytes: of the whole object, None where the source does not say."""

    data: bytes
    total_bytes: int | None


Span = tuple[int, int]
"""First byte, and the one after the last."""
