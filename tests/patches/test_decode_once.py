"""Boxes of all levels decoded at once: the same detections to the last bit, by a graph of fewer nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from helpers.export import exporter as export
from helpers.graph.onnx_runtime import OnnxRunner

SHAPE = (1, 3, 128, 160)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_same_detections_by_a_quarter_fewer_nodes(exported, dynamic):
    options = export.dynamic_options("standard") if dynamic else {}
    applied = (*options.pop("applied", export.CORRECT["standard"]), export.LEAN, *export.FASTER)
    without = exported("standard", SHAPE, applied=applied, **options)
    once = exported("standard", SHAPE, applied=(*applied, "p43_decode_once"), **options)
    graphs = [onnx.load(path).graph.node for path in (without, once)]
    # Widths and heights: of five levels, then of all; and of the box head.
    assert [sum(node.op_type == "Exp" for node in graph) for graph in graphs] == [12, 4]
    assert len(graphs[1]) < 0.8 * len(graphs[0])
    random = np.random.default_rng(3)
    for pictures in (1, 3) if dynamic else (1,):
        feeds = {
            "input": random.normal(size=(pictures, *SHAPE[1:])).astype(np.float32),
            "image_size": np.array([[128, 160], [100, 160], [128, 90]], np.float32)[:pictures],
        }
        expected, found = (OnnxRunner(path).run(feeds) for path in (without, once))
        assert (expected["dets"][..., 4] > 0).any()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
