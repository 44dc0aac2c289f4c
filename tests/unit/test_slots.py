"""Slots that fail, that are out of use, and whose memory is short."""

import pytest
from loads import slot

from pipeline.fleet.slots import FAILED_STARTS, SlotBook


@pytest.fixture
def book() -> SlotBook:
    book = SlotBook()
    book.update([slot("a/0"), slot("b/0", "A10G")])
    return book


def free(book: SlotBook, now: float = 0, taken: tuple[str, ...] = ()) -> list[str]:
    return [slot.slot for slot in book.free(taken, now)]


def test_taken_slots_are_not_free(book: SlotBook) -> None:
    """One replica in each."""
    assert free(book, taken=("a/0",)) == ["b/0"]


def test_a_slot_that_failed_is_tried_again_later_each_time(book: SlotBook) -> None:
    """After 2 s, then after 4; the same error is news only once."""
    assert book.failed(slot("a/0"), "no memory", now=0)
    assert free(book, now=1.9) == ["b/0"]
    assert free(book, now=2) == ["a/0", "b/0"]
    assert not book.failed(slot("a/0"), "no memory", now=2)
    assert free(book, now=5.9) == ["b/0"]
    assert book.failed(slot("a/0"), "another", now=6)


def test_waiting_is_useless_once_every_slot_has_failed_often(book: SlotBook) -> None:
    """The errors are told; one slot that may still work is enough to go on."""
    for _ in range(FAILED_STARTS):
        assert book.unusable() is None
        book.failed(slot("a/0"), "no memory", now=0)
    assert book.unusable() is None
    for _ in range(FAILED_STARTS):
        book.failed(slot("b/0"), "no driver", now=0)
    assert "no driver; no memory" in str(book.unusable())


def test_a_model_that_has_worked_once_is_not_given_up(book: SlotBook) -> None:
    """Failures may pass."""
    book.worked(slot("b/0"))
    for name in ("a/0", "b/0"):
        for _ in range(FAILED_STARTS):
            book.failed(slot(name), "away", now=0)
    assert book.unusable() is None


def test_a_card_out_of_use_is_not_free_and_can_come_back(book: SlotBook) -> None:
    """Until the suspicion is found wrong."""
    book.out_of_use(slot("a/0"), "nonsense")
    assert (free(book), book.in_use()) == (["b/0"], 1)
    book.back_in_use(slot("a/0"))
    assert free(book) == ["a/0", "b/0"]


def test_no_card_to_be_trusted_ends_the_wait(book: SlotBook) -> None:
    """All are named."""
    book.worked(slot("a/0"))
    book.out_of_use(slot("a/0"), "nonsense")
    book.out_of_use(slot("b/0", "A10G"), "nonsense")
    assert book.unusable() == "no card can be trusted: A10G on node b: nonsense; T4 on node a: nonsense"


def test_what_memory_allows_holds_for_all_cards_of_a_kind(book: SlotBook) -> None:
    """New replicas start with it; other kinds do not; it is news when it changes."""
    book.update([slot("a/0"), slot("c/0"), slot("b/0", "A10G")])
    assert not book.fits(slot("a/0"), 32)
    assert book.fits(slot("a/0"), 8)
    assert not book.fits(slot("a/0"), 8)
    assert {slot.slot: slot.placement.microbatch for slot in book.free((), 0)} == {"a/0": 8, "c/0": 8, "b/0": 32}


def test_the_account_names_what_is_wanted_and_what_stands_in_its_way(book: SlotBook) -> None:
    """For the error of a stalled run."""
    assert book.account() == "wanted 2 replica(s) on A10G, T4; none has started yet"
    book.failed(slot("a/0"), "no memory", now=0)
    assert "1 failed starts, the last: no memory" in book.account()
    book.update([])
    assert "the cluster has no GPU and no CPU to spare" in book.account()
