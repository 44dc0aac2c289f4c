"""Chunk ids into Ray Data: spans in waves, so that a run of any length costs the driver little and starts at once."""

from collections.abc import Iterator, Sequence
from itertools import islice

SPANS_PER_WAVE = 2048
"""Ray Data takes about 1.4 ms to build the block of one span."""
_LONGEST_SPAN = 64
_SPANS_PER_DECODER = 4


def spans(chunks: Sequence[int], decoders: int) -> Iterator[list[int]]:
    """Cut chunk ids into spans, the unit of work of a decoder: long ones first, shorter ones toward the end.

    Guided self-scheduling (Polychronopoulos and Kuck, 1987): a span is a fixed part of what is left, so that the
    decoders end together however unequal they are.
    """
    start = 0
    while start < len(chunks):
        left = len(chunks) - start
        length = max(1, min(_LONGEST_SPAN, left // (decoders * _SPANS_PER_DECODER)))
        yield list(chunks[start : start + length])
        start += length


def waves(chunks: Sequence[int], decoders: int) -> Iterator[list[list[int]]]:
    """The spans, as many at a time as go into one dataset."""
    coming = spans(chunks, decoders)
    while wave := list(islice(coming, SPANS_PER_WAVE)):
        yield wave
