"""The operator tables: every operator of both flavours has a row, and the known differences are there."""

from __future__ import annotations

import matplotlib.pyplot as plt
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.tensorrt import operator_support as ops


def _model(*nodes: tuple[str, str]) -> onnx.ModelProto:
    made = [helper.make_node(name, ["x"], [f"y{i}"], domain=domain) for i, (name, domain) in enumerate(nodes)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(made, "g", [value], []))


def test_what_8_4_lacks_and_8_6_has() -> None:
    model = _model(("RoiAlign", ""), ("GridSample", ""), ("Conv", ""))
    assert ops.gaps(model, "8.4") == {"RoiAlign": 1, "GridSample": 1}
    assert ops.gaps(model, "8.6") == {} == ops.gaps(model, "11")


def test_a_foreign_domain_needs_a_plugin_whatever_its_name() -> None:
    model = _model(("MMCVRoiAlign", "mmcv"), ("grid_sampler", "mmcv"), ("Conv", "mmcv"))
    for version in ops.VERSIONS:
        assert ops.gaps(model, version) == {"MMCVRoiAlign": 1, "grid_sampler": 1, "Conv": 1}


def test_an_operator_without_a_row_is_called_unknown_not_supported() -> None:
    (row,) = ops.support(_model(("Einsum", "")))
    assert set(row.states.values()) == {"unknown"}


def test_attention_first_then_by_count() -> None:
    rows = ops.support(_model(("Relu", ""), ("Conv", ""), ("Conv", ""), ("TopK", "")))
    assert [row.operator for row in rows] == ["TopK", "Conv", "Relu"]
    assert rows[1].nodes == 2


def test_every_version_names_its_source() -> None:
    assert set(ops.sources()) == set(ops.VERSIONS)


def test_a_version_without_a_table() -> None:
    with pytest.raises(ops.UnknownVersionError, match=r"'7\.2'.*8\.4"):
        ops.gaps(_model(("Conv", "")), "7.2")


def test_table_escapes_names_and_colours_cells() -> None:
    text = ops.table_html(ops.support(_model(("<b>", "mmcv"))))
    assert "mmcv::&lt;b&gt;" in text
    assert text.count(ops.COLOURS["plugin"]) == len(ops.VERSIONS)


def test_a_lonely_plugin_among_many_nodes_stays_visible() -> None:
    model = _model(*[("Conv", "")] * 1000, ("grid_sampler", "mmcv"), *[("Conv", "")] * 20)
    figure = ops.graph_figure(model, "title")
    cells = figure.axes[0].images[0].get_array()
    plt.close(figure)
    assert cells is not None
    assert (cells[0] == list(ops.COLOURS).index("plugin")).sum() >= 4
