import numpy as np
import pytest

from data_tools.collect.doom_engine import Engine
from data_tools.collect.doom_level import (
    CELL,
    CLEARANCE,
    Level,
    Line,
    Sector,
    level_from,
    standing_places,
)


def box(x1: float, y1: float, x2: float, y2: float) -> list[tuple[float, float, float, float]]:
    """Four sides, clockwise from the lower left corner."""
    return [(x1, y1, x1, y2), (x1, y2, x2, y2), (x2, y2, x2, y1), (x2, y1, x1, y1)]


def two_rooms(
    step: float = 0, ceiling: float = 128, solid: bool = False, things: tuple = ((100.0, 100.0),)
) -> Level:
    """Rooms 0..600 and 600..1000 wide, 500 deep, with the line x = 600 between them."""
    door = Line((600, 0, 600, 500), solid)
    left = [Line(ends, True) for ends in box(0, 0, 600, 500) if ends[0] + ends[2] < 1200]
    right = [Line(ends, True) for ends in box(600, 0, 1000, 500) if ends[0] + ends[2] > 1200]
    return level_from(
        [
            Sector(0, 128, (*left, door)),
            Sector(step, ceiling, (*right, door)),
        ],
        things,
    )


@pytest.mark.parametrize(
    ("step", "ceiling", "solid", "walls"),
    [
        (0, 128, False, 6),
        (24, 128, False, 6),
        (-24, 128, False, 6),
        (25, 128, False, 7),
        (-25, 128, False, 7),
        (0, 56, False, 6),
        (0, 55, False, 7),
        (24, 79, False, 7),
        (0, 128, True, 7),
    ],
)
def test_what_stops_a_walker(step: float, ceiling: float, solid: bool, walls: int) -> None:
    level = two_rooms(step, ceiling, solid)
    assert len(level.walls) == walls
    assert len(level.hull) == 6


def test_clearance_from_walls_and_things() -> None:
    level = two_rooms(things=((300.0, 250.0),))
    points = np.array(
        [[CLEARANCE + 1, 250], [CLEARANCE - 1, 250], [600, 250], [300, 297], [300, 299]]
    )
    assert level.clear(points).tolist() == [True, False, True, False, True]
    corner = np.array([[CLEARANCE - 1, CLEARANCE + 5], [CLEARANCE + 1, CLEARANCE + 1]])
    assert level.clear(corner).tolist() == [False, True]


def test_a_level_without_things_is_clear() -> None:
    assert two_rooms(things=()).clear(np.array([[300.0, 250.0]])).all()


@pytest.mark.parametrize(
    ("yaw", "distance"), [(0, 700.0), (90, 300.0), (180, 300.0), (270, 200.0), (45, 300 * 2**0.5)]
)
def test_view_is_the_distance_to_the_wall_ahead(yaw: float, distance: float) -> None:
    assert two_rooms().view(np.array([300.0, 200.0]), yaw) == pytest.approx(distance)


def test_places_are_inside_and_near_things() -> None:
    level = two_rooms(things=((100.0, 100.0),))
    places = standing_places(level)
    assert level.clear(places).all()
    assert places.min() > CLEARANCE - 1 and places[:, 1].max() < 500 - CLEARANCE + 1
    reach = np.linalg.norm(places - [100, 100], axis=1)
    assert 320 - CELL < reach.max() <= 320


def test_no_place_lies_outside_the_hull() -> None:
    """A square ring: its hole is void, though no wall is near its middle."""
    outer = [Line(ends, True) for ends in box(0, 0, 1200, 1200)]
    inner = [Line(ends, True) for ends in box(400, 400, 800, 800)]
    things = tuple((100.0 + 250 * i, 100.0 + 250 * j) for i in range(5) for j in range(5))
    places = standing_places(level_from([Sector(0, 128, (*outer, *inner))], things))
    in_hole = ((places > 400) & (places < 800)).all(axis=1)
    assert len(places) > 200 and not in_hole.any()


def test_a_closet_has_no_places() -> None:
    lines = tuple(Line(ends, True) for ends in box(0, 0, 300, 300))
    assert len(standing_places(level_from([Sector(0, 128, lines)], ((150.0, 150.0),)))) == 0


def test_the_engine_puts_the_player_where_the_geometry_says_one_can_stand(
    surveyor: Engine,
) -> None:
    surveyor.load("MAP05", seed=0)
    level = surveyor.level()
    assert len(level.hull) > 100 and len(level.things) > 20
    x, y = surveyor.game.get_state().game_variables[:2]
    assert level.view(np.array([x, y]), 0.0) > 16
    places = standing_places(level)
    assert np.linalg.norm(places - [x, y], axis=1).min() < 320
