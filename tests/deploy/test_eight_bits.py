"""Quantised graphs: which nodes, in which form, and that they still detect."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from helpers.deploy import eight_bits
from helpers.export import exporter
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.half_precision.search import agreement
from helpers.tensorrt import rtx

SHAPE = (1, 3, 256, 320)


@pytest.fixture(scope="module")
def picture(window):
    return window("crowd", *SHAPE[2:])


@pytest.fixture(scope="module")
def dynamic(exported):
    """The lean graph of tests/export/test_pictures.py."""
    options = exporter.dynamic_options()
    half = options | {"applied": (*options["applied"], *exporter.HALF)}
    return exported("standard", (3, *SHAPE[1:]), masks="lean", **half)


def test_a_trunk_in_eight_bits(dynamic, picture, window, tmp_path):
    ranges = tmp_path / "ranges.json"
    chosen = eight_bits.quantise(dynamic, tmp_path / "a.onnx", [picture], parts=eight_bits.TRUNK, ranges=ranges)
    plain, model = load_onnx(dynamic), load_onnx(tmp_path / "a.onnx")
    by_name = {node.name: node for node in plain.graph.node}
    assert {by_name[name].op_type for name in chosen} == {"Conv"}
    assert not any("mask_head" in name or "bbox_head" in name for name in chosen)
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    fed = {node.name: {makers.get(name) for name in node.input[:2]} for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in eight_bits.OPERATORS:
            assert (fed[node.name] == {"DequantizeLinear"}) == (node.name in chosen), node.name
    # Signed numbers around 0 are the only form that TensorRT reads; weights have a scale for each channel.
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    zeros = [tensors[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    scales = [tensors[n.input[1]].size for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert max(scales) >= 80
    # TensorRT's parser takes it, biases included.
    read = rtx.parse(rtx.trunk(model))
    assert read.accepted, read.complaints
    assert read.layers["QUANTIZE"] > 40
    # Another picture than the one that it was calibrated with.
    feeds = detect.feeds([window("twins", *SHAPE[2:])])
    exact, rounded = (OnnxRunner(path).run(feeds, ["dets", "labels"]) for path in (dynamic, tmp_path / "a.onnx"))
    same = agreement(exact, rounded)
    assert same.share > 0.5
    assert not np.array_equal(exact["dets"], rounded["dets"])
    # The ranges are kept: no picture is needed for another choice.
    more = eight_bits.quantise(dynamic, tmp_path / "b.onnx", [], symmetric=False, ranges=ranges)
    assert set(chosen) < set(more)
    unsigned = {one.name: one.data_type for one in load_onnx(tmp_path / "b.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in unsigned.values()


def test_what_cannot_be_quantised_is_said(dynamic, picture, tmp_path):
    with pytest.raises(eight_bits.QuantisationError, match="nothing to quantise in mask pasting"):
        eight_bits.quantise(dynamic, tmp_path / "x.onnx", [picture], parts=("mask pasting",))
    with pytest.raises(eight_bits.QuantisationError, match="0 pictures calibrate nothing"):
        eight_bits.quantise(dynamic, tmp_path / "x.onnx", [])
    assert list(tmp_path.iterdir()) == []
