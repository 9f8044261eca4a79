"""The graph rewrites for the plugins, on graphs that mmdet and torch really export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import patches
from helpers.compare.parity import compare
from helpers.export.exporter import CORRECT, DYNAMIC, HALF, dynamic_options, quiet_exporter
from helpers.graph.detect import detect_batch, feeds
from helpers.graph.onnx_runtime import OnnxRunner, open_session
from helpers.graph.runner import RunnerError
from helpers.operators import library as plugin_library
from helpers.tensorrt import plugin_graph
from helpers.tensorrt.plugin_graph import GraphPatternError, one_roi_align_per_head

STRIDES = (4, 8, 16, 32)
COUNT, CHANNELS, HEIGHT, WIDTH = 24, 3, 192, 256


class Heads(torch.nn.Module):
    """mmdet's two RoI extractors over one pyramid, as both heads of the model use them."""

    def __init__(self) -> None:
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

        super().__init__()
        for name, size in (("box", 7), ("mask", 4)):
            layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
            setattr(self, name, SingleRoIExtractor(layer, CHANNELS, list(STRIDES), finest_scale=20))

    def forward(self, rois: torch.Tensor, *features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.box(features, rois), self.mask(features, rois[:10])


def random_inputs(seed: int) -> list[np.ndarray]:
    """RoIs of all levels' sizes, some beyond the picture or without area; a pyramid of two pictures."""
    rng = np.random.default_rng(seed)
    side = 2.0 ** rng.uniform(2, 9, (COUNT, 1)) * rng.uniform(0.5, 2, (COUNT, 2))
    corner = rng.uniform(-20, [WIDTH, HEIGHT], (COUNT, 2))
    index = rng.integers(0, 2, (COUNT, 1))
    rois = np.concatenate([index, corner, corner + side], 1).astype(np.float32)
    rois[0, 3:] = rois[0, 1:3]
    maps = [rng.normal(size=(2, CHANNELS, HEIGHT // s, WIDTH // s)).astype(np.float32) for s in STRIDES]
    return [rois, *maps]


def export_heads(folder: Path, flavour: str, *more: str, dynamic: bool = False) -> onnx.ModelProto:
    names = ["rois", *(f"p{level}" for level in range(2, 6))]
    path = folder / f"{flavour}.onnx"
    tensors = tuple(torch.from_numpy(array) for array in random_inputs(0))
    axes = {name: {0: "number" if name == "rois" else "batch"} for name in names} if dynamic else None
    with patches.applied(*CORRECT[flavour], *more), quiet_exporter():
        torch.onnx.export(
            Heads(), tensors, str(path), input_names=names, output_names=["box", "mask"], dynamo=False,
            autograd_inlining=False, opset_version={"standard": 16, "mmcv": 11}[flavour], custom_opsets={"mmcv": 1},
            dynamic_axes=axes,
        )  # fmt: skip
    return onnx.load(path)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> onnx.ModelProto:
    return export_heads(tmp_path_factory.mktemp("heads"), "mmcv")


@pytest.fixture(scope="module")
def four_fold(tmp_path_factory) -> onnxruntime.InferenceSession:
    """The graph that samples every RoI on every level, in ONNX Runtime with its own RoiAlign."""
    model = export_heads(tmp_path_factory.mktemp("heads"), "standard")
    assert sum(node.op_type == "RoiAlign" for node in model.graph.node) == 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run_rewritten(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A rewritten graph: MultiLevelRoIAlign by the host library, the rest by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class MultiLevelRoIAlign(OpRun):
        op_domain = "mmcv"

        def _run(self, rois: np.ndarray, *features: np.ndarray, **a: Any) -> tuple[np.ndarray]:
            size = (a["output_height"], a["output_width"])
            return (
                plugin_library.multi_level_roi_align(
                    features, rois, size, a["strides"], finest_scale=a["finest_scale"], mode=a["mode"],
                    sampling_ratio=a["sampling_ratio"], aligned=bool(a["aligned"]),
                ),
            )  # fmt: skip

    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model, new_ops=[MultiLevelRoIAlign]).run(None, inputs), strict=True))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_one_launch_computes_what_the_four_fold_graph_computes(heads, four_fold, seed):
    inputs = dict(zip(["rois", "p2", "p3", "p4", "p5"], random_inputs(seed), strict=True))
    wanted = dict(zip(["box", "mask"], four_fold.run(None, inputs), strict=True))
    ours = run_rewritten(one_roi_align_per_head(heads), inputs)
    for name, expected in wanted.items():
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_onnx_runtime_runs_the_rewritten_graph(heads, four_fold, seed):
    inputs = dict(zip(["rois", "p2", "p3", "p4", "p5"], random_inputs(seed), strict=True))
    found = open_session(one_roi_align_per_head(heads), threads=1).run(["box", "mask"], inputs)
    by_mmcv = open_session(heads, threads=1).run(["box", "mask"], inputs)
    for ours, mmcv, expected in zip(found, by_mmcv, four_fold.run(["box", "mask"], inputs), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=3e-5)
        np.testing.assert_allclose(ours, mmcv, rtol=1e-4, atol=3e-5)


def multi_level(levels: int, strides: list[float]) -> onnx.ModelProto:
    """One MultiLevelRoIAlign with no option at its default."""
    names = ["rois", *(f"p{level}" for level in range(levels))]
    node = helper.make_node(
        "MultiLevelRoIAlign", names, ["y"], name="the_align", domain="mmcv", strides=strides, finest_scale=11.0,
        output_height=3, output_width=5, sampling_ratio=2, mode="max", aligned=0,
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 16), helper.make_opsetid("mmcv", 1)]
    return helper.make_model(helper.make_graph([node], "g", inputs, output), opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("levels", range(1, plugin_library.MAX_LEVELS + 1))
def test_onnx_runtime_passes_on_every_level_and_option(levels):
    rng = np.random.default_rng(levels)
    strides = [1.3 * 2.0**level for level in range(levels)]
    maps = [rng.normal(size=(2, 2, 40 - 3 * level, 50 - level)).astype(np.float32) for level in range(levels)]
    side = 8 * 2.0 ** rng.uniform(0, levels + 1, (40, 2))
    corner = rng.uniform(-5, 40, (40, 2))
    rois = np.concatenate([rng.integers(0, 2, (40, 1)), corner, corner + side], 1).astype(np.float32)
    inputs = {"rois": rois} | {f"p{level}": array for level, array in enumerate(maps)}
    found = open_session(multi_level(levels, strides), threads=1).run(None, inputs)[0]
    expected = plugin_library.multi_level_roi_align(
        maps, rois, (3, 5), strides, finest_scale=11, sampling_ratio=2, mode="max", aligned=False
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for left_out in range(levels):  # every map has a part in it
        other = [0 * array if level == left_out else array for level, array in enumerate(maps)]
        assert not np.array_equal(
            expected, plugin_library.multi_level_roi_align(other, rois, (3, 5), strides, finest_scale=11,
            sampling_ratio=2, mode="max", aligned=False)
        )  # fmt: skip


@pytest.mark.parametrize(("levels", "strides"), [(0, 1), (2, 1), (9, 9)])
def test_levels_that_do_not_fit_are_refused_before_the_run(levels, strides):
    words = f"the_align has {levels} feature maps and {strides} strides: give it one stride for each of 1 to 8"
    with pytest.raises(RunnerError, match=words):
        open_session(multi_level(levels, [4.0] * strides))


def test_without_a_compiler_the_error_comes_before_the_run(heads, monkeypatch):
    monkeypatch.setattr(plugin_library, "find_cxx", lambda: None)
    with pytest.raises(plugin_library.PluginBuildError, match="no C\\+\\+ compiler was found"):
        open_session(one_roi_align_per_head(heads))
    open_session(heads)  # which needs none


def test_each_operator_is_registered_once(heads):
    from onnxruntime_extensions import _ocos

    for model in (heads, one_roi_align_per_head(heads), multi_level(1, [4.0]), multi_level(8, [4.0] * 8)):
        open_session(model)
    names = [definition.op_type for definition in _ocos.Opdef._odlist.values()]
    ours = ["MMCVRoiAlign", *(f"MultiLevelRoIAlign{levels}" for levels in range(1, 9))]
    assert [names.count(name) for name in ours] == [1] * 9


@pytest.mark.parametrize("more", [HALF, DYNAMIC, (*DYNAMIC, *HALF)], ids=["half", "dynamic", "both"])
def test_the_heads_of_every_set_of_patches_are_rewritten(heads, tmp_path, more):
    """In half precision the levels come from the product of the roots, not from the root of the product; with a dynamic
    batch, masks have the size of computed shapes."""
    patched = export_heads(tmp_path, "mmcv", *more, dynamic=DYNAMIC[0] in more)
    assert sum(node.op_type == "Sqrt" for node in patched.graph.node) == (4 if HALF[0] in more else 2)
    ours, usual = one_roi_align_per_head(patched), one_roi_align_per_head(heads)
    assert [n.op_type for n in ours.graph.node if n.domain] == [n.op_type for n in usual.graph.node if n.domain]
    assert not {"Equal", "Sqrt", "Log", "Expand"} & {node.op_type for node in ours.graph.node}
    inputs = dict(zip(["rois", "p2", "p3", "p4", "p5"], random_inputs(3), strict=True))
    for name, expected in run_rewritten(usual, inputs).items():
        np.testing.assert_array_equal(run_rewritten(ours, inputs)[name], expected)


SETS = [(dynamic, half, masks) for dynamic in (False, True) for half in (False, True) for masks in ("full", "lean")]


@pytest.mark.parametrize(
    ("dynamic", "half", "masks"),
    # The first is exported for other tests too; what the patches change in the heads is shown above.
    [pytest.param(*one, marks=[] if one == SETS[0] else pytest.mark.slow) for one in SETS],
)
def test_every_exported_graph_detects_the_same_when_rewritten(exported, window, dynamic, half, masks):
    """All sets of patches that chapters use; each graph takes the pictures' sizes as its second input."""
    options = dynamic_options("mmcv") if dynamic else {"applied": CORRECT["mmcv"]}
    options["applied"] += HALF if half else ()
    if masks == "lean":  # the default stays unnamed: other tests share that file
        options["masks"] = masks
    batch = [window("crowd", 256, 320, 300, left) for left in ((400, 100) if dynamic else (400,))]
    model = onnx.load(exported("mmcv", (len(batch), 3, 256, 320), **options))
    rewritten = one_roi_align_per_head(model)
    assert [value.name for value in rewritten.graph.input] == ["input", "image_size"]
    operators = [node.op_type for node in rewritten.graph.node]
    assert operators.count("MultiLevelRoIAlign") == 2
    assert "MMCVRoiAlign" not in operators
    found = [detect_batch(OnnxRunner(graph, threads=2), batch) for graph in (model, rewritten)]
    for before, after in zip(*found, strict=True):
        assert len(before.scores) > 5
        compare(before, after).require()


def test_eight_roi_aligns_become_two(heads):
    before = heads.SerializeToString()
    rewritten = one_roi_align_per_head(heads)
    assert heads.SerializeToString() == before  # the given model is left as it was
    operators = [node.op_type for node in rewritten.graph.node]
    assert operators.count("MultiLevelRoIAlign") == 2
    # The masks, their comparisons and the choice of the level went with them.
    assert not {"MMCVRoiAlign", "Equal", "Sqrt", "Log", "Expand"} & set(operators)
    node = next(node for node in rewritten.graph.node if node.op_type == "MultiLevelRoIAlign")
    assert list(node.input) == ["rois", "p2", "p3", "p4", "p5"]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "output_height": 7, "output_width": 7, "strides": [4.0, 8.0, 16.0, 32.0], "finest_scale": 20.0, "mode": b"avg",
        "sampling_ratio": 0, "aligned": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(exported) -> onnx.ModelProto:
    return onnx.load(exported("mmcv"))


def test_the_exported_model_is_rewritten_whole(model):
    rewritten = one_roi_align_per_head(model)
    nodes = [node for node in rewritten.graph.node if node.op_type == "MultiLevelRoIAlign"]
    assert len(nodes) == 2
    assert len(rewritten.graph.node) < len(model.graph.node) - 60
    for node in nodes:
        assert [name.split("/")[2] for name in node.input[1:]] == [f"fpn_convs.{level}" for level in range(4)]
        assert "roi_extractor" in node.doc_string  # the origin survives
    made = {name for node in rewritten.graph.node for name in node.output}
    made |= {t.name for t in rewritten.graph.initializer} | {i.name for i in rewritten.graph.input}
    assert all(name in made for node in rewritten.graph.node for name in node.input if name)  # nothing dangles
    order: set[str] = {t.name for t in rewritten.graph.initializer} | {i.name for i in rewritten.graph.input}
    for node in rewritten.graph.node:
        assert order.issuperset(name for name in node.input if name), f"{node.name} runs before its inputs"
        order.update(node.output)


def test_both_heads_of_the_real_model_get_the_same_features(model, window):
    """The whole exported model in ONNX Runtime on a piece of a demo picture, stopped at the two heads."""
    nodes = [n for n in one_roi_align_per_head(model).graph.node if n.op_type == "MultiLevelRoIAlign"]
    names = sorted({name for node in nodes for name in (*node.input, *node.output)})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    plugin_graph._remove_unused(watched)  # mask pasting takes most of the time
    found = OnnxRunner(watched, threads=2).run(feeds([window("crowd", 256, 320, 300, 400)]))
    for node in nodes:
        a = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        ours = plugin_library.multi_level_roi_align(
            [found[name] for name in node.input[1:]], found[node.input[0]], (a["output_height"], a["output_width"]),
            a["strides"], finest_scale=a["finest_scale"],
        )  # fmt: skip
        expected = found[node.output[0]]
        assert expected.shape[0] in (200, 20)
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def changed(model: onnx.ModelProto, change: Any) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy.graph)
    return copy


def first(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def other_stride(graph: onnx.GraphProto) -> None:
    attribute = next(a for a in first(graph, "MMCVRoiAlign").attribute if a.name == "output_height")
    attribute.i = 9


def other_epsilon(graph: onnx.GraphProto) -> None:
    tensor = next(n for n in graph.node if n.op_type == "Constant" and abs(float_of(n) - 1e-6) < 1e-9).attribute[0].t
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1e-3).reshape(()), tensor.name))


def float_of(node: onnx.NodeProto) -> float:
    value = onnx.numpy_helper.to_array(node.attribute[0].t)
    return float(value.reshape(())) if value.size == 1 and value.dtype == np.float32 else float("nan")


def other_sum(graph: onnx.GraphProto) -> None:
    """Somebody else reads the sum half-way: it cannot go."""
    total = next(n for n in graph.node if n.op_type == "Add" and "Add_1" in n.output[0])
    graph.output.append(helper.make_tensor_value_info("spy", TensorProto.FLOAT, None))
    graph.node.append(helper.make_node("Relu", [total.output[0]], ["spy"]))


def other_start(graph: onnx.GraphProto) -> None:
    """Something is added to the sum from the beginning."""
    total = next(n for n in graph.node if n.op_type == "Add" and "Add_1" in n.output[0])
    total.input[0] = first(graph, "MMCVRoiAlign").output[0]


def unmasked(graph: onnx.GraphProto) -> None:
    first(graph, "MMCVRoiAlign").input[1] = "rois"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_stride, "do not form one pyramid"),
        (other_epsilon, "computed from other numbers"),
        (other_sum, "something else reads the result of"),
        (other_start, "not masked and added up"),
        (unmasked, "its RoIs are not multiplied by a mask"),
        (lambda graph: first(graph, "Sqrt").__setattr__("op_type", "Exp"), "not computed as mmdet does"),
    ],
)
def test_another_graph_is_refused(heads, change, words):
    with pytest.raises(GraphPatternError, match=words):
        one_roi_align_per_head(changed(heads, change))


def test_a_graph_without_the_operator_is_refused():
    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]))
    with pytest.raises(GraphPatternError, match="no MMCVRoiAlign: export in the mmcv flavour"):
        one_roi_align_per_head(model)
