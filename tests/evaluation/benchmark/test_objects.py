from dataclasses import replace

import numpy as np
import pytest
import torch

from sfv.data.objects import SceneObject
from sfv.evaluation.benchmark.objects import score_objects, sights_of
from sfv.evaluation.benchmark.walks import Walk
from sfv.metrics.objects import around
from sfv.metrics.protocol import Passport
from tests.evaluation.benchmark.make import SIZE, make_walk

YELLOW, BASE = (250, 230, 0), Passport("return_psnr", "return", 1)
CAMERA = ((10.0, 0.0, 0.0, 0.0), (0.0, 10.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
"""Straight from above: 10 pixels a metre."""


def drawn(column: int, row: int) -> torch.Tensor:
    frame = torch.full((3, SIZE, SIZE), 90, dtype=torch.uint8)
    frame[:, row - 1 : row + 1, column - 1 : column + 1] = torch.tensor(YELLOW).view(3, 1, 1)
    return frame


@pytest.fixture
def walk() -> Walk:
    """A puck at (1.0, 2.0) m, away at (2.5, 0.5) in frames 4 to 7, back from the turn (frame 8) on."""
    meta = make_walk("return-12-00").meta
    spots = [(25, 5) if 4 <= i < 8 else (10, 20) for i in range(12)]
    puck = SceneObject(
        "puck",
        YELLOW,
        tuple((c - 1, r - 1, c + 1, r + 1) for c, r in spots),
        tuple((c / 10, r / 10, 0.3) for c, r in spots),
        tuple((frame, 7) for frame in range(8, 12)),
    )
    known = replace(
        meta, objects=(puck,), camera=CAMERA, revisits=tuple((0, i) for i in range(8, 12))
    )
    return Walk(known, torch.stack([drawn(*spot) for spot in spots]), 8)


def scores(walk: Walk, *frames: torch.Tensor) -> dict[str, float]:
    """Of a way back that shows these four frames."""
    video = torch.cat([walk.video[:8], torch.stack(frames)])
    found = score_objects(["crop", "place", "there"], [walk], [video], BASE)
    return {name: value.value for name, value in found.items()}


def test_the_thing_back_at_its_place_reaches_the_ceiling(walk):
    found = scores(walk, *[drawn(10, 20)] * 4)
    for name, best in (("psnr", 100), ("lpips", 0), ("pixels", 0), ("metres", 0), ("there", 100)):
        assert found[f"object_{name}"] == found[f"object_{name}_ceiling"] == pytest.approx(best)
    assert found["object_there_floor"] == 0 and found["object_psnr_floor"] < 30
    assert found["object_pixels_floor"] == pytest.approx(np.hypot(15, 15))
    assert found["object_metres_floor"] == pytest.approx(np.hypot(1.5, 1.5))


def test_a_thing_put_elsewhere_is_off_by_as_much(walk):
    found = scores(walk, *[drawn(13, 16)] * 4)
    assert found["object_pixels"] == pytest.approx(5) and found["object_metres"] == pytest.approx(
        0.5
    )
    half = scores(walk, *[drawn(10, 20)] * 2, *[drawn(13, 16)] * 2)
    assert half["object_pixels"] == pytest.approx(2.5)


def test_who_does_not_show_it_guesses_the_middle_and_it_is_not_there(walk):
    empty = torch.full((3, SIZE, SIZE), 90, dtype=torch.uint8)
    found = scores(walk, *[empty] * 4)
    assert found["object_pixels"] == pytest.approx(np.hypot(16 - 10, 16 - 20))
    assert found["object_there"] == 0 and found["object_psnr"] == found["object_psnr_floor"]


def test_only_the_things_own_part_of_the_picture_counts(walk):
    rows, columns = around(walk.meta.objects[0].boxes[8], SIZE, SIZE)
    spoilt = torch.zeros((3, SIZE, SIZE), dtype=torch.uint8)
    spoilt[:, rows, columns] = drawn(10, 20)[:, rows, columns]
    found = scores(walk, *[spoilt] * 4)
    assert found["object_psnr"] == 100 and found["object_there"] == 100


def test_frames_that_do_not_show_it_are_no_sights(walk):
    (puck,) = walk.meta.objects
    hidden = replace(
        puck, boxes=(*puck.boxes[:10], None, *puck.boxes[11:]), colour=None, without=()
    )
    other = replace(walk, meta=replace(walk.meta, objects=(hidden,)))
    assert [sight.frame for sight in sights_of(other)] == [8, 9, 11]
    found = score_objects(["crop", "place", "there"], [other], [walk.video], BASE)
    assert found["object_psnr"].value == 100
    for name in ("object_pixels", "object_metres", "object_there", "object_psnr_floor"):
        assert np.isnan(found[name].value), name
    assert found["object_metres"].passport.count == 0
