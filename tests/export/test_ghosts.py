"""Rows that hold no proposal are no detections: few proposals, many classes, batches, cascades."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.compare.parity import Tolerance, compare
from helpers.detector.inference import detect_prepared
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.onnx_runtime import OnnxRunner

# Random masks have borders everywhere, and each moves with the last digit of its box.
RANDOM_MASKS = Tolerance(mask_iou=0.98)


def few(model):
    """The suppression leaves the RPN with about ten proposals of the hundred that it may keep."""
    model.test_cfg.rpn.nms.iou_threshold = 0.1
    model.test_cfg.rcnn.max_per_img = 100


@pytest.fixture(scope="module")
def graphs(small_detector, small_input, tmp_path_factory):
    @functools.cache
    def make(classes, flavour):
        detector = small_detector(classes, few)
        path = tmp_path_factory.mktemp("ghosts") / "x.onnx"
        shape = small_input().tensor.shape
        options = export.dynamic_options(flavour) if classes == 2 else {}
        return detector, OnnxRunner(export.export_onnx(detector, path, flavour, input_shape=shape, **options))

    return make


MORE = [(2, "standard"), (5, "mmcv"), (80, "standard")]


@pytest.mark.parametrize(
    ("classes", "flavour"), [(1, "standard"), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_few_proposals_give_no_detection_at_the_corner(graphs, small_input, classes, flavour):
    detector, runner = graphs(classes, flavour)

    @settings(max_examples=3, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 1000))
    def check(seed):
        prepared = small_input(seed)
        found = detect.detect_prepared(runner, prepared)
        expected = detect_prepared(detector, prepared, rescale=False)
        assert 0 < len(expected) < runner.run(detect.feeds([prepared]), ["dets"])["dets"].shape[1]
        assert len(found) == len(expected)
        compare(expected, found, RANDOM_MASKS).require()

    check()


@pytest.mark.slow
def test_in_a_batch_each_picture_keeps_its_own(graphs, small_input):
    detector, runner = graphs(2, "standard")
    batch = [small_input(seed) for seed in (3, 4)]
    for prepared, found in zip(batch, detect.detect_batch(runner, batch), strict=True):
        compare(detect_prepared(detector, prepared, rescale=False), found, RANDOM_MASKS).require()


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["standard", "mmcv"])
@pytest.mark.parametrize("masks", ["full", "lean"])
def test_a_cascade_with_masks_agrees_alone_and_in_a_batch(small_detector, small_input, tmp_path, flavour, masks):
    """Its masks are the mean of the stages' probabilities, and empty rows pass through every stage."""

    def cascade(model):
        few(model)
        model.type = "CascadeRCNN"
        head = model.roi_head
        head.type, head.num_stages, head.stage_loss_weights = "CascadeRoIHead", 2, [1, 1]
        head.bbox_head.reg_class_agnostic = True
        head.bbox_head = [head.bbox_head.copy(), head.bbox_head.copy()]
        model.train_cfg = None

    detector = small_detector(3, cascade)
    inputs = [small_input(seed) for seed in (1, 2, 3)]
    expected = [detect_prepared(detector, one, rescale=False) for one in inputs]
    assert all(len(found) > 3 for found in expected)
    shape = inputs[0].tensor.shape
    alone = OnnxRunner(export.export_onnx(detector, tmp_path / "1.onnx", flavour, input_shape=shape, masks=masks))
    options = export.dynamic_options(flavour)
    many = export.export_onnx(detector, tmp_path / "n.onnx", flavour, input_shape=shape, masks=masks, **options)
    together = detect.detect_batch(OnnxRunner(many), inputs)
    for one, found, in_batch in zip(inputs, expected, together, strict=True):
        compare(found, detect.detect_prepared(alone, one), RANDOM_MASKS).require()
        compare(found, in_batch, RANDOM_MASKS).require()
