"""Leases, strikes and what gets cut up."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.fleet.leases import LOOK_AHEAD_S, Lease, LeaseBook, Replica, Request, Work

LONG_RUN = 1_000_000


def book_with(*speeds: float, coming: int = LONG_RUN, nodes: Iterable[str] = (), microbatch: int = 4) -> LeaseBook:
    """Ready replicas "r0", "r1", … of these speeds, each on a node of its own unless told otherwise."""
    book = LeaseBook(lease_timeout_s=100, holder_timeout_s=10)
    book.expect(coming)
    for index, (speed, node) in enumerate(zip(speeds, [*nodes] or [f"n{i}" for i in range(len(speeds))], strict=True)):
        replica = book.replicas[f"r{index}"] = Replica(f"r{index}", node, f"{node}/{index}", microbatch, speed)
        book.open(replica)
    return book


def ask(book: LeaseBook, *works: Work, node: str = "elsewhere", now: float = 0.0) -> list[Lease]:
    """Request work, and grant what can be granted."""
    for work in works:
        book.arrive(work.chunk, len(work))
        book.request(Request("holder", node, work, now))
    leases = []
    for request, replica, work in book.grants(now):
        leases.append(book.grant(f"l{len(book.leases)}-{work.chunk}-{work.first}", request, replica, work, now))
        rest = request.work.split(len(work))[1]
        if rest is not None:
            book.request(Request(request.holder, request.node_id, rest))
    return leases


def chunk(number: int, images: int = 16) -> Work:
    return Work(number, 0, images)


def test_a_slow_replica_gets_its_next_lease_only_when_it_is_about_to_be_idle() -> None:
    """One that takes 16 s is left alone for 15 of them; nothing is committed to it before."""
    book = book_with(1.0)
    assert [lease.work for lease in ask(book, chunk(0), chunk(1))] == [chunk(0)]
    assert book.look(book.replicas["r0"], now=0) == 16 - LOOK_AHEAD_S
    assert ask(book, now=14) == []
    assert book.look(book.replicas["r0"], now=15.5) is None
    assert [lease.work for lease in ask(book, now=15.5)] == [chunk(1)]


def test_a_fast_replica_has_two_leases_and_no_more() -> None:
    """The pixels of the second travel while it works on the first."""
    book = book_with(100.0)
    assert [lease.work.chunk for lease in ask(book, chunk(0), chunk(1), chunk(2))] == [0, 1]
    book.release("l0-0-0", now=0.16)
    assert [lease.work.chunk for lease in ask(book, now=0.16)] == [2]


def test_release_of_an_unknown_lease_changes_nothing() -> None:
    """A lease of a Fleet that was restarted meanwhile is not an error."""
    assert book_with(1.0).release("of another life", now=0) is None


def test_pixels_stay_on_their_node_while_a_replica_there_has_room() -> None:
    """Also if another one is faster."""
    book = book_with(1.0, 50.0, nodes=["near", "far"])
    (lease,) = ask(book, chunk(0), node="near")
    assert lease.replica_id == "r0"


def test_work_that_killed_a_replica_leaves_its_node() -> None:
    """Its own node has nobody else for it: a replica on another node takes it, which has nothing beside it."""
    book = book_with(1.0, 1.0, nodes=["near", "far"])
    book.strike(chunk(0), "near/0")
    (lease,) = ask(book, chunk(0), node="near")
    assert lease.replica_id == "r1"


def test_work_behind_what_killed_a_replica_is_not_held_up_by_it() -> None:
    """The slow card is not given what the fast one would finish sooner, so the fast one has to take it."""
    book = book_with(1000.0, 1.0, nodes=["near", "far"], coming=32)
    book.strike(chunk(0), "near/0")
    assert {lease.work.chunk: lease.replica_id for lease in ask(book, chunk(0), chunk(1), node="near")} == {
        0: "r1",
        1: "r0",
    }


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1.0, 7.0, 2000.0])), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from(["whole", "rest", "part", "alone"]),
            st.sets(st.integers(0, 3)),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 100),
)
@example([("a", 2000.0), ("b", 1.0)], [("a", "rest", {0}, True)], 0)
@example([("a", 2000.0), ("b", 1.0)], [("a", "whole", {0}, False), ("b", "whole", set(), False)], 0)
def test_something_is_leased_while_all_are_idle(
    replicas: list[tuple[str, float]], works: list[tuple[str, str, set[int], bool]], coming: int
) -> None:
    """Wherever the pixels are, whatever each chunk has killed, as this piece of it or as another."""
    book = book_with(*(speed for _, speed in replicas), nodes=[node for node, _ in replicas], coming=coming)
    slots = [replica.slot for replica in book.replicas.values()]
    for number, (node, kind, struck, as_another) in enumerate(works):
        last = 9 if kind == "alone" else 16
        work = Work(number, 0 if kind == "whole" else 8, last, part=kind in ("part", "alone"), alone=kind == "alone")
        for index in struck:
            book.strike(Work(number, 0, 4) if as_another else work, slots[index % len(slots)])
        book.request(Request("holder", node, work))
    assert ask(book)


def test_a_replica_takes_work_of_its_own_node_first() -> None:
    """Even if other work has waited for longer."""
    book = book_with(1.0, nodes=["near"])
    book.request(Request("holder", "far", chunk(0)))
    (lease,) = ask(book, chunk(1), node="near")
    assert lease.work.chunk == 1


def test_the_fastest_idle_replica_goes_first() -> None:
    """Where no replica is beside the pixels."""
    (lease,) = ask(book_with(1.0, 9.0, 4.0), chunk(0))
    assert lease.replica_id == "r1"


def test_the_rest_of_a_chunk_goes_before_new_chunks() -> None:
    """So that a chunk that is begun gets committed."""
    book = book_with(1.0)
    book.request(Request("holder", "n", chunk(5)))
    (lease,) = ask(book, Work(4, 8, 16))
    assert lease.work.chunk == 4


def test_at_the_end_a_slow_replica_gets_only_what_it_can_finish_in_time() -> None:
    """Of 32 last images at speeds 1 and 7, the slow one gets 4: both end after 4 s."""
    book = book_with(1.0, 7.0, coming=32)
    shares = {lease.replica_id: len(lease.work) for lease in ask(book, chunk(0, 32))}
    assert shares == {"r0": 4, "r1": 28}


def test_the_last_images_are_not_given_to_a_slow_replica_at_all() -> None:
    """It would be done long after the fast one, which is still busy."""
    book = book_with(1.0, 20.0, coming=20)
    assert [lease.replica_id for lease in ask(book, chunk(0))] == ["r1"]
    assert ask(book, chunk(1, 4), now=0.1)[0].replica_id == "r1"


def test_a_slow_replica_takes_over_when_the_fast_one_is_gone() -> None:
    """What was held back for it is not held back for ever."""
    book = book_with(1.0, 20.0, coming=20)
    ask(book, chunk(0))
    (lost,) = book.drop("r1")
    assert [lease.replica_id for lease in ask(book, lost.work, now=1)] == ["r0"]


def test_a_replica_that_is_late_is_not_waited_for_for_ever() -> None:
    """One that should have been idle 50 s ago is expected in 50 s: the slow one takes the work."""
    book = book_with(1.0, 20.0, coming=20)
    ask(book, chunk(0), chunk(1, 4))
    book.unpark()
    assert [lease.replica_id for lease in ask(book, chunk(2, 4), now=50)][:1] == ["r0"]


def test_no_lease_is_longer_than_twenty_seconds() -> None:
    """A preemption costs no more, and the rest of the chunk goes to others."""
    first, second = ask(book_with(2.0, 2.0), chunk(0, 100))
    assert (first.work, second.work) == (Work(0, 0, 40), Work(0, 40, 80))


def test_an_unknown_card_begins_with_little() -> None:
    """Two micro-batches tell how fast it is."""
    (lease,) = ask(book_with(0.0), chunk(0, 64))
    assert len(lease.work) == 8


def test_speed_is_measured_from_end_to_end() -> None:
    """16 images in 4 s, whatever was expected."""
    book = book_with(100.0)
    ask(book, chunk(0))
    book.release("l0-0-0", now=4)
    assert book.replicas["r0"].images_per_s == 4


def test_struck_work_is_leased_as_a_whole() -> None:
    """Otherwise its strikes would never meet."""
    book = book_with(1.0, 7.0, coming=32)
    book.strike(chunk(0, 32))
    assert [lease.work for lease in ask(book, chunk(0, 32))] == [chunk(0, 32)]


def test_work_alone_waits_for_an_idle_replica_and_has_it_for_itself() -> None:
    """No lease is put behind it, and it is put behind none."""
    book = book_with(100.0)
    alone = Work(1, 3, 4, part=True, alone=True)
    ask(book, chunk(0))
    assert ask(book, alone) == []
    book.release("l0-0-0", now=1)
    assert [lease.work for lease in ask(book, chunk(2), now=1)] == [alone]


def test_a_draining_replica_gets_nothing_more() -> None:
    """It keeps the lease that it has."""
    book = book_with(100.0)
    ask(book, chunk(0))
    book.drain(book.replicas["r0"])
    assert ask(book, chunk(1)) == []
    assert book.release("l0-0-0", now=1) is not None


def test_lease_of_a_silent_holder_ends_and_its_replica_settles() -> None:
    """A dead holder's replica is not leased again before it is known to have finished."""
    book = book_with(100.0)
    ask(book, chunk(0))
    assert list(book.orphaned(now=9)) == []
    assert [lease.work for lease in book.orphaned(now=11)] == [chunk(0)]
    book.hear("holder", now=11)
    assert ask(book, chunk(1), now=11) == []
    book.open(book.replicas["r0"])
    assert len(ask(book, now=12)) == 1


def test_requests_of_the_dead_are_forgotten() -> None:
    """Those of the living stay."""
    book = book_with()
    book.request(Request("dead", "n", chunk(0)))
    book.request(Request("alive", "n", chunk(1)))
    book.hear("dead", now=0)
    book.hear("alive", now=5)
    book.withdraw(now=12)
    assert [request.holder for request in book.waiting] == ["alive"]
    assert (len(book.waiting), book.waiting.images) == (1, 16)


def test_a_holder_that_is_heard_keeps_its_leases() -> None:
    """Heartbeats keep leases alive."""
    book = book_with(1.0)
    ask(book, chunk(0))
    book.hear("holder", now=9)
    assert list(book.orphaned(now=18)) == []


def test_progress_extends_leases() -> None:
    """A slow replica that works is not taken to hang, and the lease behind waits for no fault of its own."""
    book = book_with(100.0)
    ask(book, chunk(0), chunk(1))
    assert [lease.work.chunk for lease in book.overdue(now=101)] == [0, 1]
    book.extend("r0", now=90)
    assert book.overdue(now=101) == []


def test_dropping_a_replica_ends_its_leases() -> None:
    """The death of a process returns the work that ran in it, and what was to follow, in this order."""
    book = book_with(100.0, 1.0)
    ask(book, chunk(7), chunk(8), chunk(9))
    assert [lease.work.chunk for lease in book.drop("r0")] == [7, 9]
    assert [lease.work.chunk for lease in book.leases.values()] == [8]
    assert book.drop("r0") == []


def test_a_chunk_that_arrives_again_is_counted_once() -> None:
    """Decoding it anew brings no new work."""
    book = book_with(1.0, 7.0, coming=96)
    book.arrive(9, 32)
    book.arrive(9, 32)
    assert [len(lease.work) for lease in ask(book, chunk(0, 32))] == [32]


@pytest.mark.parametrize(
    ("work", "strikes"),
    [(Work(0, 0, 16), 2), (Work(0, 0, 8, part=True), 1), (Work(0, 3, 4, part=True, alone=True), 2)],
)
def test_strikes_until_out(work: Work, strikes: int) -> None:
    """A whole chunk has two tries, a part of a struck chunk one, a single image alone two."""
    book = book_with()
    for _ in range(strikes):
        assert not book.struck_out(work)
        book.strike(work)
    assert book.struck_out(work)


@given(st.integers(1, 300))
def test_cutting_up_ends_with_every_image_alone_exactly_once(images: int) -> None:
    """However a chunk is bisected, each of its images is reached once and comes out alone."""
    alone: list[int] = []
    waiting = [Work(0, 0, images)]
    while waiting:
        work = waiting.pop()
        if work.alone:
            alone.append(work.first)
        else:
            waiting += work.pieces()
    assert sorted(alone) == list(range(images))


def test_a_holder_that_never_had_a_lease_is_not_silent() -> None:
    """Who has only asked is given time to be heard."""
    book = book_with()
    assert not book.is_silent("new", now=1000)
    book.hear("new", now=1000)
    assert book.is_silent("new", now=1011)


def test_how_long_a_lease_has_run() -> None:
    """Since the one before ended, however that was; the pixels of the next come while it runs."""
    replica = Replica("r", "n", "s")
    lease = Lease("l", "r", "s", "h", Work(0, 0, 1), granted_at=5.0, deadline=99.0)
    assert replica.ran_s(lease, now=7.0) == 2.0
    replica.ended_at = 6.5
    assert replica.ran_s(lease, now=7.0) == 0.5
