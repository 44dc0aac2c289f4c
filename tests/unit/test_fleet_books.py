"""What the Fleet keeps beside leases: whom it blames, how it stands, and tasks that must not fail unnoticed."""

import asyncio

import pytest
from loads import slot

from pipeline.fleet.background import Background
from pipeline.fleet.blame import MEMORY_KILLS_FORGIVEN, Blame
from pipeline.fleet.leases import Work
from pipeline.fleet.standing import Standing

WORK = Work(3, 0, 16)


def test_memory_is_to_blame_a_few_times() -> None:
    """Whoever took it; the same work again and again is no coincidence, other work is."""
    blame = Blame()
    blame.ended_for_memory("r")
    verdicts = [blame.is_of_the_work("r", WORK) for _ in range(MEMORY_KILLS_FORGIVEN + 1)]
    assert verdicts == [False] * MEMORY_KILLS_FORGIVEN + [True]
    assert not blame.is_of_the_work("r", Work(4, 0, 16))
    assert blame.is_of_the_work("another", WORK)


def test_the_cause_is_what_the_fleet_did_itself() -> None:
    """Else what Ray says; and a cause is told once."""
    blame = Blame()
    blame.will_end("r", "hung")
    assert [blame.cause("r", "died"), blame.cause("r", "died")] == ["hung", "died"]


def test_a_doubt_is_settled_once() -> None:
    """By the first that answers."""
    blame, doubted = Blame(), slot("n/0")
    blame.doubt(WORK, doubted)
    assert [blame.settle(WORK), blame.settle(WORK)] == [doubted, None]


def test_a_stall_is_counted_from_the_last_ready_replica() -> None:
    """And ends with the next."""
    standing = Standing(stall_timeout_s=10, now=0)
    standing.look(ready=1, has_worked=True, now=100)
    assert standing.stalled(0, 109, lambda: "a slot") is None
    assert standing.stalled(0, 110, lambda: "a slot") == "no replica of the model for 10 s: a slot"
    assert standing.stalled(1, 110, lambda: "a slot") is None


def test_no_replica_left_is_said_once_and_again_after_the_next() -> None:
    """Not before there ever was one."""
    standing = Standing(stall_timeout_s=10, now=0)
    standing.look(0, has_worked=False, now=1)
    assert standing.take() == ()
    for ready in (0, 0, 1, 0):
        standing.look(ready, has_worked=True, now=2)
    assert standing.take() == ("no replica is left: waiting up to fleet.stall_timeout_s=10 for another",) * 2
    assert standing.take() == ()


def test_a_task_that_fails_ends_the_loop_with_its_error() -> None:
    """`check` raises it; until then the loop goes on."""
    rounds: list[int] = []

    async def look() -> None:
        rounds.append(len(rounds))

    async def fail() -> None:
        raise LookupError("planted")

    async def run() -> None:
        background = Background()
        background.keep(look, 0)
        background.keep(look, 0)  # a second time does nothing
        while len(rounds) < 3:
            await asyncio.sleep(0)
        background.check()
        background.spawn(fail())
        for _ in range(10):
            await asyncio.sleep(0)
        done = len(rounds)
        with pytest.raises(LookupError, match="planted"):
            background.check()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(rounds) == done

    asyncio.run(run())
