"""Whose turn it is and who has gone: on the event loop, with the real model in its thread."""

import asyncio

import pytest

from sfv.play.hall import Busy, Full, Hall, Limits, NoVisit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hall(player, starts, actions):
    hall = Hall(player, starts, actions, Limits(visitors=2, chunks=3, idle_s=60), Clock())
    yield hall
    hall.close()


async def until_made(hall, visitor):
    """Wait as a page does."""
    async for event in hall.listen(visitor):
        if event is not None and event["kind"] == "state" and event["job"] is None:
            return event


def test_idle_visitors_make_room_and_who_waits_for_a_chunk_is_not_idle(hall):
    async def visits():
        waiting, idle = (hall.enter(None, start) for start in (0, 1))
        with pytest.raises(Full, match="come back later: idle ones leave after 1 minutes"):
            hall.enter(None, 0)
        stream = hall.listen(hall.find(idle))
        assert (await anext(stream))["kind"] == "state"
        visitor = hall.find(waiting)
        hall.go(visitor, 0, "turn left")
        hall.clock.now = 61.0
        assert hall.enter(None, 0) != idle
        assert (await anext(stream))["kind"] == "gone"
        with pytest.raises(NoVisit, match="dropped after 1 idle minutes; choose a start"):
            hall.find(idle)
        assert (await until_made(hall, visitor))["here"] == 1
        hall.clock.now = 120.0
        assert hall.find(waiting) is visitor, "the time counts from the chunk's end"

    asyncio.run(visits())


def test_chunks_are_made_in_the_order_asked_for_and_waiting_ones_can_be_dropped(hall):
    async def visits():
        first, second = (hall.find(hall.enter(None, start)) for start in (0, 1))
        hall.go(first, 0, "turn left")
        hall.go(second, 0, "turn left")
        with pytest.raises(Busy):
            hall.go(second, 0, "turn right")
        told = hall.state(second)["job"]
        assert told == {"parent": 0, "action": "turn left", "before": 1}
        hall.stop(second)
        assert hall.state(second)["job"] is None
        hall.go(second, 0, "turn right")
        await until_made(hall, first)
        assert hall.state(second)["job"] is not None, "it came second"
        state = await until_made(hall, second)
        assert [node["action"] for node in state["nodes"]] == [None, "turn right"]

    asyncio.run(visits())


def test_a_removed_or_new_beginning_takes_its_unfinished_chunk_along(hall):
    async def visits():
        token = hall.enter(None, 0)
        visitor = hall.find(token)
        hall.go(visitor, 0, "turn left")
        await until_made(hall, visitor)
        hall.go(visitor, 1, "turn left")
        hall.remove(visitor, 1)
        assert hall.state(visitor)["job"] is None
        hall.go(visitor, 0, "turn right")
        assert hall.enter(token, 1) == token
        hall.go(visitor, 0, "walk forward")
        state = await until_made(hall, visitor)
        assert (state["start"], state["visit"]) == (1, 2)
        assert [node["action"] for node in state["nodes"]] == [None, "walk forward"]

    asyncio.run(visits())


def test_a_page_that_reads_too_slowly_gets_the_state(hall, monkeypatch):
    monkeypatch.setattr("sfv.play.hall.MAX_WAITING_EVENTS", 4)

    async def visits():
        visitor = hall.find(hall.enter(None, 0))
        slow = hall.listen(visitor)
        await anext(slow)
        hall.go(visitor, 0, "turn left")
        await until_made(hall, visitor)
        told = [await anext(slow)]
        while told[-1]["kind"] != "state" or told[-1]["job"] is not None:
            told.append(await anext(slow))
        assert len(told) <= 4 and told[-1]["here"] == 1

    asyncio.run(visits())


@pytest.mark.parametrize("wrong", [{"visitors": 0}, {"chunks": 0}, {"idle_s": 0}])
def test_limits_that_let_nobody_in_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed: at least 1, at least 1, above 0"):
        Limits(**wrong)
