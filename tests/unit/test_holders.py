"""Chunks of processes that died are taken over by living ones, each by one."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.holders import IDLE_S, HolderBook


class Book(HolderBook):
    """A book whose dead are named by hand."""

    def __init__(self) -> None:
        self.dead_names: set[str] = set()
        super().__init__(self.dead_names.__contains__)


def test_nothing_is_taken_from_the_living() -> None:
    """Chunks in living hands stay there."""
    book = Book()
    assert book.hear("a", "n1", frozenset({1, 2}), 0) == frozenset()
    assert book.hear("b", "n2", frozenset({3}), 0) == frozenset()
    assert (book.in_hand(), book.stranded()) == ({1, 2, 3}, frozenset())


def test_the_living_share_what_a_dead_one_had() -> None:
    """Each takes its part, once."""
    book = Book()
    book.hear("dead", "n1", frozenset({1, 2, 3, 4}), 0)
    book.hear("a", "n2", frozenset({9}), 0)
    book.hear("b", "n3", frozenset(), 0)
    book.dead_names.add("dead")
    assert book.stranded() == {1, 2, 3, 4}
    first = book.hear("a", "n2", frozenset({9}), 0)
    second = book.hear("b", "n3", frozenset(), 0)
    third = book.hear("a", "n2", frozenset({9}) | first, 0)
    assert sorted([*first, *second, *third]) == [1, 2, 3, 4]
    assert len(first) == 2
    assert book.stranded() == frozenset()
    assert book.in_hand() == {1, 2, 3, 4, 9}


def test_a_chunk_that_is_in_living_hands_too_is_not_stranded() -> None:
    """Where Ray Data was faster, nobody takes the chunk over."""
    book = Book()
    book.hear("dead", "n1", frozenset({1}), 0)
    book.hear("again", "n1", frozenset({1}), 0)
    book.dead_names.add("dead")
    assert book.stranded() == frozenset()
    assert book.hear("other", "n2", frozenset(), 0) == frozenset()


def test_who_took_over_and_died_leaves_it_to_the_next() -> None:
    """A chunk goes on from hand to hand, also before the first word of who had it last."""
    book = Book()
    for name in ("first", "second", "third"):
        book.hear(name, "n", frozenset({1}) if name == "first" else frozenset(), 0)
    book.dead_names.add("first")
    assert book.hear("second", "n", frozenset(), 0) == {1}
    book.dead_names.add("second")
    assert book.hear("third", "n", frozenset(), 0) == {1}


def test_a_new_round_forgets_the_dead_only() -> None:
    """What the dead had is given out again by the driver."""
    book = Book()
    book.hear("dead", "n1", frozenset({1}), 0)
    book.hear("alive", "n2", frozenset({2}), 0)
    book.dead_names.add("dead")
    book.forget_dead()
    assert book.stranded() == frozenset()
    assert (book.living_on("n1"), book.living_on("n2"), book.not_on({"n1"})) == (0, 1, ["alive"])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.integers(0, 9)), st.booleans()), max_size=40))
def test_no_chunk_is_given_to_two_living_holders(steps: list[tuple[str, set[int], bool]]) -> None:
    """Whoever is told to take a chunk over is the only living one that has it."""
    book = Book()
    for name, chunks, dies in steps:
        book.dead_names.add(name)
        others = book.in_hand()
        book.dead_names.discard(name)
        taken = book.hear(name, f"node of {name}", frozenset(chunks), 0)
        assert not taken & others
        assert taken <= book.in_hand()
        if dies:
            book.dead_names.add(name)


def test_idle_are_those_who_wait_after_a_death() -> None:
    """Whoever has nothing to do while nobody died waits for Ray Data."""
    book = Book()
    book.hear("dead", "n1", frozenset({1}), 0)
    book.hear("idle", "n2", frozenset(), 0)
    book.hear("idle", "n2", frozenset(), IDLE_S + 1)
    assert book.idle(IDLE_S + 1) == 0
    book.dead_names.add("dead")
    assert book.idle(IDLE_S + 1) == 1
    assert book.hear("idle", "n2", frozenset(), IDLE_S + 1) == {1}
    assert book.idle(IDLE_S + 1) == 0


def test_what_was_sent_to_the_dead_is_taken_over() -> None:
    """Chunks that nobody ever had in hand go to a living holder, once."""
    book = Book()
    book.hear("alive", "n", frozenset({1}), 0)
    book.strand(frozenset({1, 2}))
    assert book.stranded() == {2}
    assert book.hear("alive", "n", frozenset({1}), 1) == {2}
    assert book.hear("alive", "n", frozenset({1, 2}), 2) == frozenset()
    assert book.hear("alive", "n", frozenset(), 3) == frozenset()


def test_the_spare_waits_for_the_others() -> None:
    """It is given what was sent to the dead only while nobody else has anything to do."""
    book = Book()
    book.hear("dead", "n1", frozenset(), 0)
    book.dead_names.add("dead")
    for now in (0, IDLE_S + 1):
        book.hear("spare", "n2", frozenset(), now, spare=True)
        book.hear("worker", "n3", frozenset({1}), now)
    assert book.idle(IDLE_S + 1) == 0
    assert book.living_on("n2") == 0
    book.hear("worker", "n3", frozenset(), IDLE_S + 1)
    assert book.idle(IDLE_S + 1) == 1


def test_whoever_says_nothing_any_more_is_not_counted_on() -> None:
    """Ray Data ends processes without a word, long before they count as dead."""
    book = Book()
    for name in ("dead", "ended", "alive"):
        book.hear(name, "n", frozenset({1, 2, 3, 4} if name == "dead" else ()), 0)
    book.dead_names.add("dead")
    assert book.hear("alive", "n", frozenset(), 5) == {1, 2, 3, 4}
