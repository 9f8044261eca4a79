"""TensorRT for RTX, the real one, on small graphs; what stands in its way is one sentence each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.tensorrt import rtx


def _model(*, custom: str = "", conv_name: str = "/rpn_head/rpn_cls/Conv") -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], name=conv_name, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
    ]
    last = "r"
    if custom:
        nodes.append(helper.make_node(custom, ["r"], ["k"], name="custom", domain="mmcv"))
        nodes.append(helper.make_node("Relu", ["k"], ["z"], name="after"))
        last = "z"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 8, 8]) for name in ("c", "r", "k")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 2, 8, 8])],
        [weights],
        value_info=values,
    )
    opsets = [helper.make_opsetid("", 16), helper.make_opsetid("mmcv", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_the_parser_names_the_node_it_cannot_take_and_accepts_the_rest() -> None:
    model = _model(custom="grid_sampler")
    report = rtx.parse(model)
    assert not report.accepted
    (complaint,) = report.complaints
    assert (complaint.operator, complaint.node, complaint.index) == ("grid_sampler", "custom", 2)
    assert "Plugin not found" in complaint.words
    masked = rtx.parse(rtx.mask_out(model, {"grid_sampler"}))
    assert masked.accepted
    assert masked.complaints == ()
    assert masked.layers["CONVOLUTION"] == 1


def test_an_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    built = rtx.build(_model(), tmp_path / "x.engine")
    assert built.bytes == (tmp_path / "x.engine").stat().st_size > 0
    assert [kind for _, kind in built.layers].count("CONVOLUTION") == 1
    # Without a driver the engine cannot be opened, and the runtime's words say so; with one, it lists its layers.
    assert built.inspected or any(line.startswith("ERROR") for line in built.log)


def test_a_refused_graph_builds_nothing_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"old")
    with pytest.raises(rtx.RtxError, match="Plugin not found"):
        rtx.build(_model(custom="grid_sampler"), path)
    assert path.read_bytes() == b"old"


def test_masking_leaves_the_given_model_alone() -> None:
    model = _model(custom="grid_sampler")
    before = model.SerializeToString()
    masked = rtx.mask_out(model, {"grid_sampler"})
    assert model.SerializeToString() == before
    onnx.checker.check_model(masked)
    assert [value.name for value in masked.graph.input] == ["input", "k"]


def test_trunk_ends_at_the_rpn_convolutions() -> None:
    part = rtx.trunk(_model())
    assert [node.op_type for node in part.graph.node] == ["Conv"]
    assert [value.name for value in part.graph.output] == ["c"]
    with pytest.raises(rtx.RtxError, match="rpn_head"):
        rtx.trunk(_model(conv_name="other"))


def test_a_process_that_aborts_is_an_error_here_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "available", lambda: True)
    monkeypatch.setattr(rtx, "_CHILD", "import os; os.abort()")
    with pytest.raises(rtx.RtxError, match="SIGABRT"):
        rtx.parse(_model())


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "available", lambda: True)
    monkeypatch.setattr(rtx, "_CHILD", "import time; time.sleep(60)")
    with pytest.raises(rtx.RtxError, match=r"longer than 0\.5 s"):
        rtx.parse(_model(), timeout=0.5)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "available", lambda: False)
    with pytest.raises(rtx.RtxError, match="not installed"):
        rtx.parse(_model())
