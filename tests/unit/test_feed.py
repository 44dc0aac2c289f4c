"""Spans and waves."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.feed import SPANS_PER_WAVE, spans, waves


@given(st.lists(st.integers(0, 10**6), max_size=3000), st.integers(1, 64))
def test_spans_hold_every_chunk_once_in_order(chunks: list[int], decoders: int) -> None:
    """Nothing is lost or fed twice."""
    assert [chunk for span in spans(chunks, decoders) for chunk in span] == chunks


def test_the_last_spans_are_single_chunks() -> None:
    """Decoders end together: the tail is fed chunk by chunk."""
    lengths = [len(span) for span in spans(range(10_000), 8)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-8:] == [1] * 8


def test_a_hundred_thousand_chunks_are_few_spans() -> None:
    """At 1.4 ms for each span's block, feeding costs the driver under 0.1 ms for each chunk."""
    number = sum(len(wave) for wave in waves(range(100_000), 16))
    assert number * 1.4 / 100_000 < 0.1


def test_waves_are_bounded() -> None:
    """No dataset has more blocks than a wave."""
    sizes = [len(wave) for wave in waves(range(1_000_000), 4)]
    assert max(sizes) == SPANS_PER_WAVE
