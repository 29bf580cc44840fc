"""Whose turn it is and who has gone: on the event loop, with the real model in its thread."""

import asyncio

import pytest

from sfv.play.hall import Busy, Full, Hall, Limits, NoVisit
from sfv.play.session import NoRoom


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
        assert told == {"parent": 0, "action": "turn left", "before": 1, "shown": False}
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


def test_a_way_out_is_shown_chunk_by_chunk_where_all_of_it_has_room(hall):
    async def visits():
        visitor = hall.find(hall.enter(None, 1))
        hall.go(visitor, 0, "walk forward")
        await until_made(hall, visitor)
        hall.show(visitor, 0)
        assert hall.state(visitor)["job"]["shown"]
        state = await until_made(hall, visitor)
        hall.show(visitor, 2)
        state = await until_made(hall, visitor)
        known = [(n["parent"], n["action"], n["shown"]) for n in state["nodes"][1:]]
        out = [(0, "walk forward", True), (2, "turn left", True)]
        assert known == [(0, "walk forward", False), *out], "a generated chunk is another one"
        hall.show(visitor, 0)
        assert (visitor.visit.here, visitor.job) == (2, None), "it was shown before"
        hall.remove(visitor, 2)
        hall.go(visitor, 1, "turn left")
        await until_made(hall, visitor)
        with pytest.raises(NoRoom, match="holds 2 of at most 3 chunks, and 2 come"):
            hall.show(visitor, 0)
        with pytest.raises(ValueError, match="chunk 1 was generated; a way out is shown from"):
            hall.show(visitor, 1)

    asyncio.run(visits())


@pytest.mark.parametrize("wrong", ["temp_lora", "other", ["fast"]])
def test_a_memory_that_the_model_has_not_is_refused(hall, wrong):
    with pytest.raises(ValueError, match=r"there is no memory .*; this model has fast, none"):
        hall.enter(None, 0, wrong)


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
