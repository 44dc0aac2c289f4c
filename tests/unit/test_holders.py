"""Chunks of processes that died are taken over by living ones, each by one."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.holders import HolderBook


class Book(HolderBook):
    """A book whose dead are named by hand."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        super().__init__(self.dead.__contains__)


def test_nothing_is_taken_from_the_living() -> None:
    """Chunks in living hands stay there."""
    book = Book()
    assert book.hear("a", "n1", frozenset({1, 2})) == frozenset()
    assert book.hear("b", "n2", frozenset({3})) == frozenset()
    assert (book.in_hand(), book.stranded()) == ({1, 2, 3}, frozenset())


def test_the_living_share_what_a_dead_one_had() -> None:
    """Each takes its part, once."""
    book = Book()
    book.hear("dead", "n1", frozenset({1, 2, 3, 4}))
    book.hear("a", "n2", frozenset({9}))
    book.hear("b", "n3", frozenset())
    book.dead.add("dead")
    assert book.stranded() == {1, 2, 3, 4}
    first = book.hear("a", "n2", frozenset({9}))
    second = book.hear("b", "n3", frozenset())
    third = book.hear("a", "n2", frozenset({9}) | first)
    assert sorted([*first, *second, *third]) == [1, 2, 3, 4]
    assert len(first) == 2
    assert book.stranded() == frozenset()
    assert book.in_hand() == {1, 2, 3, 4, 9}


def test_a_chunk_that_is_in_living_hands_too_is_not_stranded() -> None:
    """Where Ray Data was faster, nobody takes the chunk over."""
    book = Book()
    book.hear("dead", "n1", frozenset({1}))
    book.hear("again", "n1", frozenset({1}))
    book.dead.add("dead")
    assert book.stranded() == frozenset()
    assert book.hear("other", "n2", frozenset()) == frozenset()


def test_who_took_over_and_died_leaves_it_to_the_next() -> None:
    """A chunk goes on from hand to hand, also before the first word of who had it last."""
    book = Book()
    for name in ("first", "second", "third"):
        book.hear(name, "n", frozenset({1}) if name == "first" else frozenset())
    book.dead.add("first")
    assert book.hear("second", "n", frozenset()) == {1}
    book.dead.add("second")
    assert book.hear("third", "n", frozenset()) == {1}


def test_a_new_round_forgets_the_dead_only() -> None:
    """What the dead had is given out again by the driver."""
    book = Book()
    book.hear("dead", "n1", frozenset({1}))
    book.hear("alive", "n2", frozenset({2}))
    book.dead.add("dead")
    book.forget_dead()
    assert book.stranded() == frozenset()
    assert (book.living_on("n1"), book.living_on("n2"), book.not_on({"n1"})) == (0, 1, ["alive"])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.integers(0, 9)), st.booleans()), max_size=40))
def test_no_chunk_is_given_to_two_living_holders(steps: list[tuple[str, set[int], bool]]) -> None:
    """Whoever is told to take a chunk over is the only living one that has it."""
    book = Book()
    for name, chunks, dies in steps:
        book.dead.add(name)
        others = book.in_hand()
        book.dead.discard(name)
        taken = book.hear(name, f"node of {name}", frozenset(chunks))
        assert not taken & others
        assert taken <= book.in_hand()
        if dies:
            book.dead.add(name)
