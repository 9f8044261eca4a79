"""The parity contract, on detections made by hand."""

from __future__ import annotations

import matplotlib.pyplot
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

matplotlib.use("Agg")

from helpers.compare.parity import CONTRACT, ParityError, compare, comparison_figure, table
from helpers.detector.detections import Detections
from helpers.detector.preprocess import prepare
from helpers.graph import detect


def detections(count: int = 6, seed: int = 0) -> Detections:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(8, 20, (count, 2))], axis=1).astype(np.float32)
    masks = np.zeros((count, 64, 64), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    scores = np.linspace(0.9, 0.2, count, dtype=np.float32)
    return Detections(boxes, scores, np.arange(count, dtype=np.int64) % 3, masks)


def changed(found: Detections, **fields: np.ndarray) -> Detections:
    return Detections(
        **{name: fields.get(name, getattr(found, name).copy()) for name in ("boxes", "scores", "labels", "masks")}
    )


@settings(max_examples=50)
@given(st.permutations(range(6)))
def test_order_does_not_matter(order):
    found = detections()
    parity = compare(found, found[np.array(order)])
    assert parity.agrees
    assert len(parity.pairs) == 6


@pytest.mark.parametrize(
    ("field", "amount", "agrees"),
    [("boxes", 0.009, True), ("boxes", 0.02, False), ("scores", 5e-5, True), ("scores", 3e-4, False)],
)
def test_each_limit_of_the_contract_holds(field, amount, agrees):
    found = detections()
    moved = getattr(found, field).copy()
    moved[2] += amount
    parity = compare(found, changed(found, **{field: moved}), class_names=["cat", "dog", "cup"])
    assert parity.agrees is agrees
    if not agrees:
        assert parity.broken_by.startswith("cup (score 0.620)")
        with pytest.raises(ParityError, match="cup"):
            parity.require()


@pytest.mark.parametrize(("pixels", "agrees"), [(2, True), (3, False)])
def test_a_small_mask_may_differ_in_two_pixels_and_no_more(pixels, agrees):
    found = detections()
    masks = found.masks.copy()
    y, x = np.argwhere(masks[0])[:pixels].T
    masks[0, y, x] = False
    parity = compare(found, changed(found, masks=masks))
    assert parity.mask_overlap.min() < CONTRACT.mask_iou
    assert parity.agrees is agrees
    if not agrees:
        assert "mask IoU 0.9" in parity.broken_by


def test_a_large_mask_may_differ_in_one_part_of_a_thousand():
    box = np.array([[0, 0, 100, 100]], np.float32)
    full = np.ones((1, 100, 100), bool)
    found = Detections(box, np.array([0.9], np.float32), np.array([0]), full)
    for pixels, agrees in ((10, True), (11, False)):
        masks = full.copy()
        masks[0, 0, :pixels] = False
        assert compare(found, changed(found, masks=masks)).agrees is agrees


def test_another_label_leaves_both_without_a_partner_and_the_strongest_is_named():
    found = detections()
    labels = found.labels.copy()
    labels[[1, 4]] += 1
    parity = compare(found, changed(found, labels=labels))
    assert parity.only_first.tolist() == [1, 4]
    assert parity.only_second.tolist() == [1, 4]
    assert "(score 0.760)" in parity.broken_by


def test_only_scores_from_the_floor_on_are_compared_and_a_partner_may_lie_just_below():
    found = detections(2)
    scores = np.array([0.9, CONTRACT.score_floor + 2e-5], np.float32)
    first = changed(found, scores=scores)
    below = changed(found, scores=scores - np.array([0, 5e-5], np.float32))
    assert compare(first, below).agrees
    assert compare(first, first[:1]).only_first.tolist() == [1]
    weak = changed(found, scores=np.array([0.9, 0.04], np.float32))
    assert compare(weak, weak[:1]).agrees


@settings(max_examples=60)
@given(
    row=st.integers(0, 5),
    column=st.integers(0, 4),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    score=st.sampled_from([0.9, 0.0501, 0.01]),
    sides=st.sampled_from(["first", "second", "both"]),
)
def test_a_row_that_is_not_finite_breaks_the_contract_wherever_it_stands(row, column, value, score, sides):
    found = detections()
    boxes, scores = found.boxes.copy(), found.scores.copy()
    scores[row] = score
    sound = changed(found, scores=scores.copy())
    if column < 4:
        boxes[row, column] = value
    else:
        scores[row] = value
    broken = changed(sound, boxes=boxes, scores=scores)
    parity = compare(sound if sides == "second" else broken, sound if sides == "first" else broken)
    if column < 4 and score < CONTRACT.score_floor:
        assert parity.agrees
    else:
        named = "second" if sides == "second" else "first"
        assert parity.broken_by.startswith(f"the {named} has class {row % 3} ")
        assert "not finite" in parity.broken_by


def test_the_figure_draws_rows_that_are_not_finite_and_pictures_without_detections():
    found = detections()
    scores = found.scores.copy()
    scores[0] = np.nan
    boxes = found.boxes.copy()
    boxes[1] = np.inf
    broken = changed(found, boxes=boxes, scores=scores)
    for first, second in ((found, broken), (found[:0], found), (found[:0], found[:0])):
        figure = comparison_figure(np.zeros((64, 64, 3), np.uint8), first, second)
        figure.canvas.draw()
        matplotlib.pyplot.close(figure)


def test_nothing_agrees_with_nothing_and_masks_must_have_one_size():
    none = detections()[:0]
    assert compare(none, none).agrees
    assert not compare(none, detections()).agrees
    with pytest.raises(ParityError, match="cannot be compared"):
        compare(none, Detections(none.boxes, none.scores, none.labels, np.zeros((0, 3, 3), bool)))


def test_figure_and_table_show_what_is_unmatched():
    found = detections()
    figure = comparison_figure(np.zeros((64, 64, 3), np.uint8), found, found[:4], names=("a", "b"))
    assert [axis.get_title() for axis in figure.axes[:2]] == [
        "a: 4 matched, 2 without a partner",
        "b: 4 matched, 0 without a partner",
    ]
    columns = table([("pair", compare(found, found[:4]))])
    assert columns["only first"] == [2]
    assert columns["agrees"] == [False]


def test_the_words_of_boxes_at_the_edges_stay_within_their_panel():
    corners = [[0, 0, 300, 90], [900, 0, 1216, 90], [0, 700, 60, 800], [1190, 790, 1216, 800], [0, 0, 0, 0]]
    alone = Detections(
        np.array(corners, np.float32), np.ones(5, np.float32), np.arange(5), np.zeros((5, 800, 1216), bool)
    )
    none = Detections(alone.boxes[:0], alone.scores[:0], alone.labels[:0], alone.masks[:0])
    figure = comparison_figure(np.zeros((800, 1216, 3), np.uint8), alone, none, class_names=["a long name"] * 5)
    figure.canvas.draw()
    panel = figure.axes[0].get_window_extent()
    assert len(figure.axes[0].texts) == 4  # none for the box without an area
    for words in figure.axes[0].texts:
        place = words.get_window_extent()
        assert panel.x0 - 2 <= place.x0 < place.x1 <= panel.x1 + 2, words
        assert panel.y0 - 2 <= place.y0 < place.y1 <= panel.y1 + 2, words
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("column", [0, 2, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_of_a_graph_that_is_not_finite_is_not_taken_for_padding(bad, column, rescale):
    """Padding has a score of 0. A NaN is not greater than 0 either; an infinite corner is not the picture's edge."""
    prepared = prepare(np.zeros((60, 80, 3), np.uint8), (96, 128))
    dets = np.zeros((1, 4, 5), np.float32)
    dets[0, 0] = 5, 5, 40, 60, 0.9
    raw = {"dets": dets, "labels": np.zeros((1, 4), np.int64), "masks": np.ones((1, 4, 96, 128), np.float32)}
    sound = detect.detections(raw, [prepared], rescale=rescale)[0]
    assert len(sound) == 1
    assert compare(sound, sound).agrees
    dets[0, 1] = 50, 5, 70, 60, 0.8
    dets[0, 1, column] = bad
    broken = detect.detections(raw, [prepared], rescale=rescale)[0]
    assert len(broken) == 2
    assert "not finite" in compare(sound, broken).broken_by
