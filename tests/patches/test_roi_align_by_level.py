"""RoIs sampled on their own level alone: the exported extractor gives what eager mmdet gives, in the same order."""

from __future__ import annotations

import functools
import io

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patches
from helpers.compat import ensure_torchvision
from helpers.deploy import profile
from helpers.export import exporter as export
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import open_session
from helpers.half_precision.simulation import round_results

ensure_torchvision()
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor  # noqa: E402

STRIDES, PICTURES, SIDE = (4, 8, 16, 32), 2, 1024
NAMES = (*export.NEEDED["standard"], "p08_roi_align_half_pixel", export.FASTER[0])


@functools.cache
def extractor():
    layer = {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0}
    features = [
        torch.from_numpy(np.random.default_rng(stride).normal(size=(PICTURES, 2, SIDE // stride, SIDE // stride)))
        for stride in STRIDES
    ]
    return SingleRoIExtractor(layer, 2, list(STRIDES)).eval(), [one.float() for one in features]


@functools.cache
def graph(names):
    roi_extractor, features = extractor()

    class Call(torch.nn.Module):
        def forward(self, rois):
            return roi_extractor(features, rois)

    file = io.BytesIO()
    rois = torch.tensor([[0, 10.0, 10, 50, 50]]).repeat(5, 1)
    with patches.applied(*names), export.quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            Call(),
            (rois,),
            file,
            opset_version=16,
            input_names=["rois"],
            dynamic_axes={"rois": {0: "n"}},
            dynamo=False,
            autograd_inlining=False,
        )
    return onnx.load_from_string(file.getvalue())


# Sides from a point to the whole picture: 112, 224 and 448 px divide the levels.
sides = st.sampled_from([0.0, 3.0, 60.0, 111.0, 113.0, 223.0, 225.0, 300.0, 447.0, 449.0, 1000.0])
rois = st.lists(st.tuples(st.integers(0, PICTURES - 1), st.floats(0, 20, width=32), sides, sides), max_size=12)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(rois)
def test_to_the_last_bit_as_on_every_level_and_as_eager_mmdet(drawn):
    rows = [(picture, low, low, low + width, low + height) for picture, low, width, height in drawn]
    boxes = np.array(rows, np.float32).reshape(-1, 5)
    roi_extractor, features = extractor()
    with torch.no_grad():
        expected = roi_extractor(features, torch.from_numpy(boxes)).numpy()
    (found,), (on_every_level,) = (session(names).run(None, {"rois": boxes}) for names in (NAMES, NAMES[:-1]))
    np.testing.assert_array_equal(found, on_every_level, strict=True)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_roi_that_is_not_finite_keeps_its_row():
    """It is on no level by equality, and the graph stopped at the missing row: so did a search in half precision."""
    rows = np.array([[0, 10, 10, 60, 60], [0, np.nan, 10, 60, 60], [1, 10, 10, 500, 500]], np.float32)
    # ONNX Runtime's RoiAlign refuses such a RoI, the simulation's does not.
    rounded = open_session(round_results(graph(NAMES)), optimise=False)
    found, others = (rounded.run(None, {"rois": given})[0] for given in (rows, rows[::2]))
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[::2], others)


@functools.cache
def session(names):
    return open_session(graph(names))


def test_no_roi_is_sampled_twice():
    """Without the patch every RoI goes to every level, and the others' results are multiplied by zero."""
    levels = {
        names: [sum(node.op_type == kind for node in graph(names).graph.node) for kind in ("RoiAlign", "NonZero")]
        for names in (NAMES, NAMES[:-1])
    }
    assert levels == {NAMES: [4, 4], NAMES[:-1]: [4, 0]}


@pytest.mark.parametrize(("flavour", "by_level"), [("standard", True), ("mmcv", False)])
def test_lean_graphs_of_onnx_runtimes_flavour_have_it(exported, flavour, by_level):
    path = exported(flavour, (1, 3, 128, 160), masks="lean")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("NonZero" in kinds) == by_level


def test_operations_behind_it_can_be_counted(exported):
    """How many RoIs a level has is known at run time only; how many there are in all, the graph says."""
    counts = profile.operations_by_part(load_onnx(exported("standard", (1, 3, 128, 160), masks="lean")))
    assert {"box head", "mask head"} <= set(counts)


@settings(max_examples=30, derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(st.integers(0, PICTURES - 1), st.floats(0, 900), st.floats(0, 900)), max_size=12))
def test_neighbours_are_sampled_after_each_other(drawn):
    """Picture by picture, in strips of 64 px, from left to right."""
    boxes = np.array([(picture, x, y, x + 50, y + 50) for picture, x, y in drawn], np.float32).reshape(-1, 5)
    places, pictures = (lowest_level().run([name], {"rois": boxes})[0] for name in sampled_at())
    order = [(int(picture), int(y // 64), int(x)) for picture, (x, y, *_) in zip(pictures, places, strict=True)]
    assert len(order) == len(drawn)
    assert order == sorted(order)


@functools.cache
def sampled_at():
    """The inputs of the lowest level's RoiAlign: boxes and the number of each one's picture."""
    return next(node.input[1:] for node in graph(NAMES).graph.node if node.op_type == "RoiAlign")


@functools.cache
def lowest_level():
    model = onnx.ModelProto.FromString(graph(NAMES).SerializeToString())
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sampled_at())
    return open_session(model)
