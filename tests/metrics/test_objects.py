import numpy as np
import pytest

from sfv.metrics.objects import around, at_height, locate, project

CAMERA = np.array([[50.0, 0.0, -20.0, 60.0], [0.0, -40.0, -30.0, 70.0], [0.1, 0.0, -0.5, 2.0]])
WOOD, YELLOW = (110, 80, 65), (250, 230, 0)


def table(*blobs: tuple[slice, slice]) -> np.ndarray:
    frame = np.full((20, 30, 3), WOOD, dtype=np.uint8)
    for rows, columns in blobs:
        frame[rows, columns] = YELLOW
    return frame


def test_a_blob_is_found_in_its_middle_and_the_larger_of_two_wins() -> None:
    small, large = (slice(2, 4), slice(1, 3)), (slice(10, 14), slice(20, 23))
    assert locate(table(small), YELLOW) == (2.0, 3.0)
    assert locate(table(small, large), YELLOW) == (21.5, 12.0)
    assert locate(table(), YELLOW) is None


def test_an_edge_pixel_counts_in_part() -> None:
    frame = table((slice(5, 7), slice(10, 12)))
    frame[5:7, 12] = (np.array(WOOD) + 3 * np.array(YELLOW)) // 4
    found = locate(frame, YELLOW)
    assert found is not None and 11.0 < found[0] < 11.5 and found[1] == pytest.approx(6.0)


def test_a_place_is_found_again_from_its_pixel() -> None:
    place = (0.2, -0.3, 0.05)
    column, row = project(CAMERA, place)
    assert (column, row) == pytest.approx((69 / 1.995, 80.5 / 1.995))
    assert at_height(CAMERA, (column, row), 0.05) == pytest.approx(place[:2])


def test_a_crop_is_square_and_inside() -> None:
    assert around((28, 2, 30, 4), 20, 30) == (slice(0, 16), slice(14, 30))
    assert around((10, 5, 20, 15), 64, 48) == (slice(0, 20), slice(5, 25))
    assert around((0, 0, 30, 20), 20, 30) == (slice(0, 20), slice(5, 25))
