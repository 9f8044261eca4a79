from __future__ import annotations

import types

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from helpers import paths
from helpers.detector import architecture, inference
from helpers.detector.detections import Detections
from helpers.detector.preprocess import prepare, read_picture
from helpers.detector.tracing import recorded_functions, trace_modules


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(x).relu_())


def test_modules_are_recorded_in_order_with_shapes_and_the_hooks_go():
    model = Twice()
    calls, result = trace_modules(model, ["b", "a"], lambda: model(torch.ones(5, 3)))
    assert [(call.name, call.input_shapes, call.output_shapes) for call in calls] == [
        ("a", [(5, 3)], [(5, 4)]),
        ("b", [(5, 4)], [(5, 2)]),
    ]
    # relu_ writes into a's output after the hook: the record must be a copy made before.
    assert torch.equal(calls[0].outputs, model.a(torch.ones(5, 3)))
    assert torch.equal(calls[1].outputs, result)
    with pytest.raises(ZeroDivisionError):
        trace_modules(model, ["a"], lambda: 1 / 0)
    assert not model.a._forward_hooks


def test_an_unknown_module_is_named():
    with pytest.raises(KeyError, match="nose"):
        trace_modules(Twice(), ["nose"], lambda: None)


def test_functions_are_recorded_before_they_change_their_arguments_and_put_back():
    def double(x):
        return x.mul_(2)

    module = types.SimpleNamespace(double=double)
    with recorded_functions((module, "double")) as calls:
        module.double(torch.ones(2))
    assert torch.equal(calls["double"][0].args[0], torch.ones(2))
    assert torch.equal(calls["double"][0].result, torch.full((2,), 2.0))
    assert module.double is double


def test_a_method_leaves_nothing_on_the_instance_even_after_an_error():
    model = Twice()
    with pytest.raises(RuntimeError), recorded_functions((model, "forward")):
        model(torch.ones(1, 7))
    assert "forward" not in vars(model)
    with pytest.raises(ValueError, match="same name"), recorded_functions((model, "a"), (Twice(), "a")):
        pass


def test_where_nothing_is_found_no_walk_leads(emoji_detector, monkeypatch):
    monkeypatch.setitem(emoji_detector.roi_head.test_cfg, "score_thr", 1.0)
    with pytest.raises(inference.NothingFoundError, match="its mask branch is not called"):
        architecture.walk(emoji_detector, prepare(np.zeros((30, 40, 3), np.uint8), (96, 128)))


def test_the_first_picture_with_objects_is_taken_and_others_are_named(tmp_path, monkeypatch, capfd):
    """A bright picture has an object here, a dark one has one that is doubtful."""

    def detect(_, prepared, *, rescale):
        score = 0.5 if prepared.tensor.max() > 0 else 0.4
        return Detections(np.ones((1, 4)), np.array([score]), np.zeros(1, int), np.ones((1, 1, 1), bool))

    monkeypatch.setattr(inference, "detect_prepared", detect)
    files = [tmp_path / name for name in ("dark.png", "bright.png", "brighter.png")]
    for file, grey in zip(files, (0, 200, 255), strict=True):
        cv2.imwrite(str(file), np.full((4, 6, 3), grey, np.uint8))
    assert inference.first_with_objects(nn.Module(), files).max() == 200
    assert capfd.readouterr().out.startswith("dark.png: no object with a score of at least 0.5")
    with pytest.raises(inference.NothingFoundError, match="in 1 pictures"):
        inference.first_with_objects(nn.Module(), files[:1])


@pytest.fixture(scope="module")
def walked(emoji_detector):
    return architecture.walk(emoji_detector, prepare(read_picture(paths.DATA / "demo" / "twins.jpg")))


def test_the_mask_branch_takes_the_refined_boxes(walked):
    np.testing.assert_array_equal(walked.mask_rois, walked.found.boxes)
    np.testing.assert_array_equal(walked.box_rois, walked.proposals[:, :4])
    distance = np.abs(walked.mask_rois[:, None] - walked.proposals[None, :, :4]).max(axis=2)
    assert distance.min() > 0


def test_the_levels_of_proposals_are_those_of_the_candidates_they_were(walked):
    for box, level in zip(walked.proposals[:50, :4], walked.proposal_levels[:50], strict=True):
        same = (walked.candidates == box).all(axis=1)
        assert level in walked.candidate_levels[same]


def test_masks_for_the_detections_are_the_masks_of_the_detections(emoji_detector, walked):
    masks = architecture.masks_for_boxes(
        emoji_detector, walked, walked.found.boxes, walked.found.labels, walked.found.masks.shape[1:]
    )
    assert np.mean(masks != walked.found.masks) < 1e-5


def test_roi_levels_at_the_edges():
    side = np.array([[1.0], [111.9], [112.1], [223.9], [224.1], [447.9], [448.1], [2000.0]], np.float32)
    rois = np.concatenate([np.zeros((8, 2), np.float32), side, side], axis=1)
    assert architecture.roi_levels(rois).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
