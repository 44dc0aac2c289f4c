"""How a card is cut up: whatever the card, it fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loads import GIB, RAM_PLUS

from pipeline.cards.profiles import load_profiles
from pipeline.cards.sizing import (
    CardSize,
    gpu_fraction,
    images_per_s_ceiling,
    measured_card,
    needed_bytes,
    size_card,
    usable_bytes,
)
from ramcore.describe import CUDA_CONTEXT_BYTES

TABLE = load_profiles()
CARDS = st.one_of(st.none(), st.sampled_from(TABLE.cards))
DTYPES = st.sampled_from(["fp32", "bf16", "fp16"])
VRAM = st.integers(GIB // 4, 200 * GIB)


@given(
    VRAM,
    DTYPES,
    CARDS,
    st.one_of(st.just("auto"), st.integers(1, 512)),
    st.one_of(st.none(), st.integers(1, 16)),
    st.integers(1, 8),
)
def test_whatever_is_asked_for_fits_or_is_refused(vram, dtype, card, microbatch, replicas, most) -> None:
    """Memory is never exceeded, contexts included, and Ray can always place all replicas of a card on it."""
    size = size_card(vram, RAM_PLUS, dtype, card, microbatch, replicas, most)
    if isinstance(size, str):
        assert "GiB" in size or "host memory" in size
        return
    assert size.replicas * round(size.num_gpus * 10_000) <= 10_000
    assert (size.replicas + 1) * round(size.num_gpus * 10_000) > 10_000
    assert needed_bytes(size.replicas, size.microbatch, RAM_PLUS, dtype) <= usable_bytes(vram) < vram
    assert size.replicas * (size.memory_share * vram + CUDA_CONTEXT_BYTES) <= usable_bytes(vram)
    assert 0 < size.memory_share <= 1
    assert 1 <= size.replicas <= most
    assert microbatch in ("auto", size.microbatch)
    assert replicas in (None, size.replicas)
    assert (size.images_per_s is None) == (card is None)


@given(VRAM, VRAM, DTYPES, st.sampled_from(TABLE.cards))
def test_more_memory_is_never_slower(first, second, dtype, card) -> None:
    """A card that differs by its memory alone is used at least as well with more of it."""
    less, more = (size_card(vram, RAM_PLUS, dtype, card) for vram in sorted((first, second)))
    if isinstance(less, CardSize):
        assert isinstance(more, CardSize)
        assert more.images_per_s >= less.images_per_s


@given(VRAM, DTYPES, st.sampled_from(TABLE.cards))
def test_nothing_is_expected_beyond_the_ceiling(vram, dtype, card) -> None:
    """Replicas share the card; together they do no more than it can."""
    size = size_card(vram, RAM_PLUS, dtype, card)
    if isinstance(size, CardSize):
        assert 0 < size.images_per_s <= images_per_s_ceiling(card, RAM_PLUS, dtype, fused=False)


@pytest.mark.parametrize("replicas", range(1, 65))
def test_fractions_pack_exactly(replicas: int) -> None:
    """In Ray's steps of a ten-thousandth so many fit on a card, and not one more."""
    steps = round(gpu_fraction(replicas) * 10_000)
    assert replicas * steps <= 10_000 < (replicas + 1) * steps


def test_a_card_that_is_too_small_says_so() -> None:
    """What is needed and what is there, in GiB."""
    assert size_card(2 * GIB, RAM_PLUS, "fp32", None) == (
        "1 replica(s) in fp32 with micro-batch 1 need 2.1 GiB, the card has 1.8 of 2.0 GiB to give"
    )


def test_an_unknown_card_gets_one_replica() -> None:
    """Sized by its memory; how fast it is has to be learned."""
    size = size_card(10 * GIB, RAM_PLUS, "fp16", None)
    assert (size.replicas, size.num_gpus, size.images_per_s) == (1, 1.0, None)
    assert size.microbatch == 32


def test_more_replicas_than_the_host_has_memory_for_are_refused() -> None:
    """The key is named."""
    why = size_card(80 * GIB, RAM_PLUS, "fp16", TABLE.find("A100"), replicas=4, most_replicas=2)
    assert why == "fleet.replicas_per_gpu=4: the node has host memory for 2 per card"


def test_what_was_measured_is_taken_as_it_is() -> None:
    """Replicas, micro-batch and speed; refused where the weights do not even fit."""
    assert measured_card(80 * GIB, RAM_PLUS, "fp16", 3, 24, 700.0).microbatch == 24
    assert measured_card(80 * GIB, RAM_PLUS, "fp16", 3, 24, 700.0).num_gpus == 0.3333
    assert "3 replica(s)" in measured_card(3 * GIB, RAM_PLUS, "fp16", 3, 24, 700.0)
