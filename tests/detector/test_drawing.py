from __future__ import annotations

import numpy as np
import pytest

from helpers.detector.detections import Detections, box_iou, mask_iou
from helpers.detector.drawing import class_colour, difference, draw_boxes, heat, overlay, strip


@pytest.fixture
def grey():
    return np.full((40, 60, 3), 90, np.uint8)


def test_a_difference_shows_where_and_only_where(grey):
    other = grey.copy()
    other[10:12, 20:25] = 200
    red = difference(grey, other)
    changed = (red[..., 0] > 90) & (red[..., 1] == 0)
    assert changed.sum() == 10
    assert changed[10:12, 20:25].all()
    with pytest.raises(ValueError, match="shapes"):
        difference(grey, grey[:10])


def test_an_overlay_colours_the_mask_and_leaves_low_scores_and_the_original_alone(grey):
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 20:30, 30:40] = True
    masks[1, 0:5, 50:60] = True
    found = Detections(
        np.array([[30, 20, 40, 30], [50, 0, 60, 5]], np.float32),
        np.array([0.9, 0.1], np.float32),
        np.array([1, 2]),
        masks,
    )
    before = grey.copy()
    drawn = overlay(grey, found, ["a", "b", "c"], boxes=False, text=False)
    np.testing.assert_array_equal(grey, before)
    assert (drawn[25, 35] != 90).any()
    assert (drawn[2, 55] == 90).all()


def test_neighbouring_classes_have_distant_colours():
    distances = [np.abs(np.subtract(class_colour(i), class_colour(i + 1))).max() for i in range(79)]
    assert min(distances) > 60


def test_boxes_are_drawn_on_a_copy_each_in_its_colour(grey):
    drawn = draw_boxes(grey, np.array([[5, 5, 20, 20], [30, 10, 50, 30]]), [(255, 0, 0), (0, 255, 0)], thickness=1)
    # Lines are anti-aliased, so they are nearly of the colour asked for.
    assert drawn[5, 12].tolist() == pytest.approx([255, 0, 0], abs=30)
    assert drawn[10, 40].tolist() == pytest.approx([0, 255, 0], abs=30)
    assert (grey == 90).all()


def test_heat_survives_values_that_are_not_finite():
    picture = heat(np.array([[0.0, np.nan], [np.inf, 1.0]]))
    assert picture.shape == (2, 2, 3)
    assert (picture[1, 0] == picture[1, 1]).all()


def test_a_strip_has_a_cell_for_each_picture(grey):
    figure = strip([grey] * 5, list("abcde"), columns=3)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d", "e", ""]


def test_a_long_or_a_tall_picture_leaves_room_for_the_others(grey):
    """Each is drawn as large as its column lets it, whichever comes first; and no figure is too large to be drawn."""
    for shape in ((300, 5000, 3), (5000, 300, 3)):
        figure = strip([np.zeros(shape, np.uint8), grey, grey, grey], list("abcd"), columns=2, width=6)
        figure.draw_without_rendering()
        assert figure.get_size_inches()[1] < 10
        sides = [axis.get_position().size * figure.get_size_inches() for axis in figure.axes]
        assert max(sides[0]) > 2.5
        for width, height in sides[1:]:
            assert width > 2.5
            assert height == pytest.approx(width * 40 / 60, rel=0.01)


def test_overlaps():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 30]])
    np.testing.assert_allclose(box_iou(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    empty = np.zeros((2, 2), bool)
    assert mask_iou(empty, empty) == 1.0
    assert mask_iou(empty, ~empty) == 0.0


def test_detections_refuse_unequal_lengths_and_drop_padding():
    with pytest.raises(ValueError, match="same length"):
        Detections(np.zeros((1, 4)), np.zeros(2), np.zeros(1, int), np.zeros((1, 2, 2), bool))
    dets = np.array([[0, 0, 1, 1, 0.4], [0, 0, 0, 0, 0.0]], np.float32)
    raw = Detections.from_raw(dets, np.array([3, 0]), np.array([[[0.5]], [[0.0]]]))
    assert len(raw) == 1
    assert raw.masks[0, 0, 0]
    assert len(Detections.from_raw(dets, np.array([3, 0]), np.zeros((2, 1, 1)), drop_padding=False)) == 2
