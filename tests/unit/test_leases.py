"""Leases, strikes and what gets cut up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.leases import LeaseBook, Replica, Work


def book_with(*replicas: str, node: str = "n1") -> LeaseBook:
    book = LeaseBook(lease_timeout_s=100, holder_timeout_s=10)
    for replica_id in replicas:
        book.replicas[replica_id] = Replica(replica_id, node, f"{node}/{replica_id}", state="idle")
    return book


def test_a_replica_has_one_lease_at_a_time() -> None:
    """A leased replica is not offered again until it is released."""
    book = book_with("r1")
    lease = book.grant("l1", book.replicas["r1"], "holder", Work(0, 0, 4), now=0)
    assert book.idle("n1", fresh=False) is None
    assert book.release(lease.lease_id)
    assert book.idle("n1", fresh=False) is book.replicas["r1"]


def test_release_of_an_unknown_lease_changes_nothing() -> None:
    """A lease of a Fleet that was restarted meanwhile is not an error."""
    assert not book_with("r1").release("of another life")


def test_replicas_on_the_asking_node_come_first() -> None:
    """Pixels stay on their node while a replica there is free."""
    book = book_with("r1", node="far")
    book.replicas["r2"] = Replica("r2", "near", "near/0", state="idle", served=5)
    found = book.idle("near", fresh=False)
    assert found is not None
    assert found.replica_id == "r2"


def test_fresh_work_prefers_a_process_that_has_done_nothing() -> None:
    """Work that runs alone takes a never-used replica even on another node."""
    book = book_with("used", node="near")
    book.replicas["used"].served = 3
    book.replicas["new"] = Replica("new", "far", "far/0", state="idle")
    found = book.idle("near", fresh=True)
    assert found is not None
    assert found.replica_id == "new"


def test_lease_of_a_silent_holder_ends_and_its_replica_settles() -> None:
    """A dead holder's replica is not leased again before it is known to have finished."""
    book = book_with("r1")
    book.grant("l1", book.replicas["r1"], "holder", Work(0, 0, 4), now=0)
    assert list(book.orphaned(now=9)) == []
    assert [lease.lease_id for lease in book.orphaned(now=11)] == ["l1"]
    assert book.replicas["r1"].state == "settling"
    assert book.idle("n1", fresh=False) is None


def test_a_holder_that_is_heard_keeps_its_leases() -> None:
    """Heartbeats keep leases alive."""
    book = book_with("r1")
    book.grant("l1", book.replicas["r1"], "holder", Work(0, 0, 4), now=0)
    book.hear("holder", now=9)
    assert list(book.orphaned(now=18)) == []


def test_progress_extends_a_lease() -> None:
    """A slow replica that works is not taken to hang."""
    book = book_with("r1")
    book.grant("l1", book.replicas["r1"], "holder", Work(0, 0, 4), now=0)
    assert [lease.lease_id for lease in book.overdue(now=101)] == ["l1"]
    book.extend("r1", now=90)
    assert book.overdue(now=101) == []


def test_dropping_a_replica_ends_its_lease() -> None:
    """The death of a process returns the work that ran in it."""
    book = book_with("r1", "r2")
    book.grant("l1", book.replicas["r1"], "holder", Work(7, 0, 4), now=0)
    lease = book.drop("r1")
    assert lease is not None
    assert lease.work.chunk == 7
    assert book.drop("r2") is None
    assert book.leases == {}


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
