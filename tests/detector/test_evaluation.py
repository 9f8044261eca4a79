from __future__ import annotations

import mmcv
import numpy as np
import pytest
import torch

from helpers import paths
from helpers.detector import inference
from helpers.detector.detections import Detections
from helpers.detector.evaluation import (
    DatasetError,
    box_ap_by_class,
    box_ap_by_size,
    coco_results,
    evaluate,
    instances_by_class,
    load_set,
    score,
)
from helpers.detector.preprocess import COURSE


@pytest.fixture(scope="module")
def few():
    return load_set().head(3)


def truth_of(dataset, image_id, *, score_of=0.9):
    """The annotations of a picture, as detections."""
    annotations = dataset.truth.loadAnns(dataset.truth.getAnnIds(imgIds=[image_id]))
    boxes = np.array([a["bbox"] for a in annotations], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        boxes,
        np.full(len(annotations), score_of, np.float32),
        np.array([dataset.category_ids.index(a["category_id"]) for a in annotations]),
        np.stack([dataset.truth.annToMask(a).astype(bool) for a in annotations]),
    )


def test_the_shipped_sets_are_what_the_model_card_says():
    validation, demo = load_set(), load_set(paths.DATA / "demo")
    assert len(validation) == 60
    assert len(demo) == 8
    assert validation.category_ids == demo.category_ids
    assert len(validation.category_ids) == 80
    for image_id in validation.image_ids:
        assert len(validation.truth.getAnnIds(imgIds=[image_id])) >= 21
    size = sum(file.stat().st_size for file in paths.DATA.rglob("*") if file.is_file())
    assert size < 25e6


def test_the_truth_itself_scores_one(few):
    results = [entry for i in few.image_ids for entry in coco_results(truth_of(few, i), i, few.category_ids)]
    found = score(few, results)
    assert found.box == pytest.approx(1.0, abs=1e-6)
    assert found.mask == pytest.approx(1.0, abs=1e-6)
    assert found.pictures == 3
    assert set(box_ap_by_class(few, results)) == set(instances_by_class(few))
    assert min(box_ap_by_size(few, results).values()) == pytest.approx(1.0, abs=1e-6)


def test_wrong_labels_score_nothing_and_wrong_masks_cost_mask_ap_only(few):
    shifted, blank = [], []
    for image_id in few.image_ids:
        truth = truth_of(few, image_id)
        moved = Detections(truth.boxes, truth.scores, (truth.labels + 1) % 80, truth.masks)
        empty = Detections(truth.boxes, truth.scores, truth.labels, np.zeros_like(truth.masks))
        shifted += coco_results(moved, image_id, few.category_ids)
        blank += coco_results(empty, image_id, few.category_ids)
    assert score(few, shifted).box < 0.05
    assert score(few, blank).box == pytest.approx(1.0, abs=1e-6)
    assert score(few, blank).mask == 0.0


def test_no_detections_score_zero(few):
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 800, 1216), bool)
    )
    assert evaluate(few, lambda _: nothing).box == 0.0


def test_a_spread_has_both_ends_and_no_picture_twice():
    whole = load_set()
    for count in (1, 2, 12, 60, 99):
        part = whole.spread(count)
        assert len(part) == len(set(part.image_ids)) == min(count, 60)
        assert set(part.image_ids) <= set(whole.image_ids)
        assert part.image_ids[0] == whole.image_ids[0]
        assert count == 1 or part.image_ids[-1] == whole.image_ids[-1]
    images = whole.truth.loadImgs(list(whole.spread(12).image_ids))
    assert len({(image["height"], image["width"]) for image in images}) >= 3


def test_results_of_other_pictures_do_not_count(few):
    results = [entry for i in few.image_ids for entry in coco_results(truth_of(few, i), i, few.category_ids)]
    alone = few.head(1)
    own = [entry for entry in results if entry["image_id"] == alone.image_ids[0]]
    assert score(alone, results) == score(alone, own)
    assert len(own) < len(results)


def test_results_are_kept_until_something_they_depend_on_changes(few, monkeypatch, tmp_path):
    """A network of one layer whose answer is the truth: what is kept, and when it is made again."""
    detector = torch.nn.Linear(2, 2)
    detector.cfg = mmcv.Config({"model": {"type": "Two"}})
    looked_at = []

    def instead(_, picture, input_shape):
        looked_at.append(input_shape)
        return truth_of(few, few.image_ids[(len(looked_at) - 1) % len(few)])

    monkeypatch.setattr(inference, "detect", instead)
    path = tmp_path / "results.json"
    first = inference.results_on(few, detector, path)
    assert len(looked_at) == len(few)
    assert score(few, first).mask == pytest.approx(1.0, abs=1e-6)
    assert inference.results_on(few, detector, path) == first
    assert len(looked_at) == len(few)
    detector.cfg.model["type"] = "Three"
    inference.results_on(few, detector, path)
    assert len(looked_at) == 2 * len(few)
    looked_at.clear()
    detector.test_cfg = {"score_thr": 0.1}  # in memory only
    inference.results_on(few, detector, path)
    assert len(looked_at) == len(few)
    monkeypatch.setattr(inference, "preprocessing_of", lambda _: COURSE.at((64, 96)))
    inference.results_on(few, detector, path)
    assert len(looked_at) == 2 * len(few)
    inference.results_on(few, detector, path, (32, 48))
    assert looked_at[2 * len(few) :] == [(32, 48)] * len(few)
    del looked_at[2 * len(few) :]
    with torch.no_grad():
        detector.weight += 1
    inference.results_on(few, detector, path)
    inference.results_on(few.head(1), detector, path)
    assert len(looked_at) == 3 * len(few) + 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no"), ("{", "not a COCO"), ("[]", "not a COCO"), ("[" * 50_000, "not a COCO")],
)
def test_a_missing_or_damaged_set_is_one_sentence(tmp_path, content, words):
    if content is not None:
        (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(DatasetError, match=words):
        load_set(tmp_path)
