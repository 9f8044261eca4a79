"""Boxes come out as they were decoded, not as a round trip over the offset of their class leaves them."""

import numpy as np
import pytest

from helpers.compare.parity import compare
from helpers.detector import inference
from helpers.detector.models import load_detector
from helpers.detector.preprocess import prepare, read_picture
from helpers.export import exporter as export
from helpers.graph.detect import detect_prepared
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.paths import DATA


def test_only_a_round_trip_puts_boxes_on_a_grid(light_detector, exported, wide, window):
    """Offsets reach 79 * 320 and 79 * 1216 px, where float32 has steps of 1/512 and 1/128 px."""
    errors = []
    for path, prepared in (
        (exported("standard", (1, 3, 256, 320)), window("crowd", 256, 320, 300, 600)),
        (wide, window("crowd", 192, 1216, 300)),
    ):
        expected = inference.detect_prepared(light_detector, prepared, rescale=False)
        assert len(expected) > 10
        same = compare(expected, detect_prepared(OnnxRunner(path), prepared)).require()
        errors.append(same.box_error.max())
    unmoved, moved = errors
    assert unmoved < 2e-4
    assert 1e-3 < moved < 1 / 256 + 1e-4


@pytest.mark.slow
def test_a_mask_that_the_round_trip_changes(tmp_path):
    """RoIAlign takes ceil(width / 14) samples: the first 600 columns of ``crowd`` have a RoI of 56.0003 px."""
    detector = load_detector("emoji")
    prepared = prepare(np.ascontiguousarray(read_picture(DATA / "demo" / "crowd.jpg")[:, :600]))
    expected = inference.detect_prepared(detector, prepared, rescale=False)
    worst = []
    for applied in (export.BOXES_MOVED["standard"], export.CORRECT["standard"]):
        path = export.export_onnx(detector, tmp_path / "x.onnx", applied=applied, masks="lean")
        worst.append(compare(expected, detect_prepared(OnnxRunner(path), prepared)).mask_overlap.min())
    assert worst[0] < 0.99
    assert worst[1] > 0.999
