"""The dynamic batch: patched export, graph check, and batches against single pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from helpers.compare.parity import compare
from helpers.detector.models import build_random_detector
from helpers.detector.preprocess import NetworkInput
from helpers.export import exporter as export
from helpers.graph import batches
from helpers.graph.batches import measure_batch
from helpers.graph.detect import BatchError, detect_batch, stack
from helpers.graph.file import load_onnx
from helpers.graph.frozen_batch import BatchCheckError, frozen_batches, require_free_batch
from helpers.graph.onnx_runtime import OnnxRunner

SHAPE = (3, 3, 256, 320)


@pytest.fixture(scope="module")
def pictures(window):
    """Eight different windows of real pictures, 256 x 320."""
    corners = [(0, 0), (100, 300), (300, 600), (450, 800)]
    return [window(name, 256, 320, y, x) for name in ("crowd", "twins") for y, x in corners]


@pytest.fixture(scope="module", params=["standard", "mmcv"])
def flavour(request):
    return request.param


@pytest.fixture(scope="module")
def dynamic(flavour, exported):
    return exported(flavour, SHAPE, **export.dynamic_options(flavour))


@pytest.fixture(scope="module")
def runner(dynamic):
    return OnnxRunner(dynamic)


@pytest.fixture(scope="module")
def single(runner, pictures):
    return [detect_batch(runner, [picture])[0] for picture in pictures]


@pytest.mark.parametrize("order", [(0,), (5, 0), (7, 6, 5, 4, 3, 2, 1, 0)])
def test_a_batch_equals_its_pictures_one_by_one_in_any_order(runner, pictures, single, order):
    assert sum(len(found) for found in single) > 20
    for index, found in zip(order, detect_batch(runner, [pictures[i] for i in order]), strict=True):
        compare(single[index], found).require()
    # The pictures differ, so that a mixed-up batch would be noticed.
    assert not compare(single[0], single[5]).agrees


def test_only_the_batch_is_dynamic(dynamic):
    model = load_onnx(dynamic)
    for value, shape in zip(
        (model.graph.input[0], *model.graph.output),
        (["batch", *SHAPE[1:]], ["batch", 20, 5], ["batch", 20], ["batch", 20, *SHAPE[2:]]),
        strict=True,
    ):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == shape
    constants = {item.name for item in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    top_k = [node for node in model.graph.node if node.op_type == "TopK"]
    assert top_k
    assert all(node.input[1] in constants for node in top_k)
    require_free_batch(model, SHAPE[0])


def test_the_patches_remove_shape_arithmetic(dynamic, flavour, exported):
    plain = exported(flavour, SHAPE, **export.dynamic_options(flavour) | {"applied": None})

    def count(path):
        return sum(node.op_type == "Shape" for node in load_onnx(path).graph.node)

    assert count(dynamic) < count(plain) / 2


def test_the_static_graph_agrees_with_the_dynamic_one(flavour, exported, pictures, single):
    runner = OnnxRunner(exported(flavour, (1, *SHAPE[1:])))
    compare(detect_batch(runner, pictures[:1])[0], single[0]).require()
    with pytest.raises(BatchError, match="static at a batch of 1, got 2 pictures"):
        detect_batch(runner, pictures[:2])


def test_what_is_no_batch_is_refused(pictures):
    with pytest.raises(BatchError, match="batch of 0"):
        stack([])
    with pytest.raises(BatchError, match="make no batch"):
        stack([pictures[0].tensor, pictures[0].tensor[..., 1:]])


def test_a_measurement_has_time_and_memory_or_says_why_not(tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(graph("Reshape", [-1, 4]), path)
    ours = np.ones(100_000_000, np.float32)  # what this process holds is not the child's
    cost = measure_batch(path, {"input": np.zeros((2, 4), np.float32)}, tmp_path)
    assert cost.peak_mb < ours.nbytes / 1e6
    assert cost.batch == 2
    assert cost.seconds > 0
    assert cost.first_seconds > 0
    assert cost.peak_mb > 10
    with pytest.raises(BatchError, match="batch of 2 failed"):
        measure_batch(path, {"input": np.zeros((2, 3, 3), np.float32)}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_an_interrupt_leaves_no_arrays(tmp_path, monkeypatch):
    def interrupted(command, **_):
        assert Path(command[-2]).stat().st_size > 1000
        raise KeyboardInterrupt

    monkeypatch.setattr(batches.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        batches.measure_batch(tmp_path / "x.onnx", {"input": np.zeros((2, 400), np.float32)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def graph(operator: str, numbers: list[int], *, from_input: bool = True) -> onnx.ModelProto:
    """input (batch, 4) -> one node whose second input is ``numbers``; Slice takes them as the end on axis 0."""
    names = ["input" if from_input else "table", "numbers"]
    extra = [helper.make_tensor("numbers", TensorProto.INT64, [len(numbers)], numbers)]
    if operator == "Slice":
        names = [names[0], "zero", "numbers", "zero"]
        extra.append(helper.make_tensor("zero", TensorProto.INT64, [1], [0]))
    extra.append(helper.make_tensor("table", TensorProto.FLOAT, [2, 4], [0.0] * 8))
    nodes = [helper.make_node(operator, names, ["y"], name="node", doc_string="head.fc\nmmdet/x.py:1 f")]
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("input", TensorProto.FLOAT, ["batch", 4])],
            [value("y", TensorProto.FLOAT, None)],
            extra,
        ),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
    )


@given(st.sampled_from(["Reshape", "Expand", "Tile", "Slice"]), st.integers(-1, 50))
def test_a_constant_above_one_in_the_batch_dimension_is_found(operator, number):
    numbers = [number] if operator == "Slice" else [number, 4]
    found = frozen_batches(graph(operator, numbers))
    assert [item.value for item in found] == ([number] if number > 1 else [])
    if found:
        assert "from head.fc < mmdet/x.py:1 f" in str(found[0])
        assert frozen_batches(graph(operator, numbers), number + 1) == []
        with pytest.raises(BatchCheckError, match="1 nodes hold the traced batch"):
            require_free_batch(graph(operator, numbers), number)
    assert frozen_batches(graph(operator, numbers, from_input=False)) == []


def test_slices_to_the_end_and_other_axes_are_no_finding_and_a_graph_needs_an_input():
    assert frozen_batches(graph("Slice", [2**63 - 1])) == []
    assert frozen_batches(graph("Reshape", [-1, 3])) == []
    other_axis = graph("Slice", [3])
    assert len(frozen_batches(other_axis)) == 1
    next(item for item in other_axis.graph.initializer if item.name == "zero").int64_data[:] = [1]
    assert frozen_batches(other_axis) == []
    nothing = graph("Reshape", [3, 4])
    del nothing.graph.input[:]
    with pytest.raises(BatchCheckError, match="no input"):
        frozen_batches(nothing)


def test_r50_with_random_weights_takes_a_batch(tmp_path, lighten):
    detector = lighten(build_random_detector("r50"))
    path = export.export_onnx(detector, tmp_path / "r50.onnx", input_shape=(1, 3, 256, 320), **export.dynamic_options())
    noise = (np.random.default_rng(2).standard_normal((2, 1, 3, 256, 320)) * 1.2).astype(np.float32)
    tensors = [NetworkInput.full(tensor) for tensor in noise]
    runner = OnnxRunner(path)
    for tensor, found in zip(tensors, detect_batch(runner, tensors), strict=True):
        compare(detect_batch(runner, [tensor])[0], found).require()
