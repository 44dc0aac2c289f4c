"""Finding the largest micro-batch that fits."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.microbatch import Microbatch


def settle(microbatch: Microbatch, room: int) -> int:
    """Run until the size stays; how often memory ran out."""
    failures = 0
    for _ in range(64):
        size = microbatch.size
        if size > room:
            failures += 1
            microbatch.did_not_fit(size)
        else:
            microbatch.did_fit(size)
    return failures


@given(wanted=st.integers(1, 512), room=st.integers(1, 600))
def test_it_settles_at_the_largest_that_fits(wanted: int, room: int) -> None:
    """After a few failures, and with none where all fits."""
    microbatch = Microbatch(wanted)
    failures = settle(microbatch, room)
    assert microbatch.size == min(wanted, room)
    assert failures <= (0 if wanted <= room else wanted.bit_length() + 1)


@given(first=st.integers(1, 64), second=st.integers(1, 64))
def test_it_follows_when_memory_shrinks(first: int, second: int) -> None:
    """What fitted once need not fit later."""
    microbatch = Microbatch(64)
    settle(microbatch, first)
    settle(microbatch, min(first, second))
    assert microbatch.size == min(first, second)


def test_the_last_few_images_of_a_lease_teach_nothing() -> None:
    """A part of a micro-batch that fits does not make the next one larger."""
    microbatch = Microbatch(32)
    microbatch.did_not_fit(32)
    microbatch.did_fit(3)
    assert microbatch.size == 16
