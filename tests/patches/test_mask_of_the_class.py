"""The mask head's last layers for the detected class only: the same masks as picked from those of all classes."""

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
from helpers.export import exporter as export
from helpers.graph.onnx_runtime import open_session

ensure_torchvision()
from mmcv import ConfigDict  # noqa: E402
from mmdet.models import build_head  # noqa: E402

PICTURES, DETECTIONS, LARGEST = 2, 3, 5
WITHOUT = ("p04_no_operator_probe", "p08_roi_align_half_pixel", export.LEAN)
WITH = (*WITHOUT, export.FASTER[1])


@functools.cache
def graph(names, classes, agnostic=False, layer="Conv"):
    torch.manual_seed(1)
    head = build_head(
        ConfigDict(
            type="StandardRoIHead",
            mask_roi_extractor={
                "type": "SingleRoIExtractor",
                "roi_layer": {"type": "RoIAlign", "output_size": 4, "sampling_ratio": 0},
                "out_channels": 6,
                "featmap_strides": [4],
            },
            mask_head={
                "type": "FCNMaskHead",
                "num_convs": 1,
                "in_channels": 6,
                "conv_out_channels": LARGEST,  # as many as the largest number of classes: neither is told by its size
                "num_classes": classes,
                "class_agnostic": agnostic,
                "predictor_cfg": {"type": layer},
            },
            test_cfg={"mask_thr_binary": 0.5},
        )
    )
    head.eval().requires_grad_(False)
    for part in (head.mask_head.conv_logits, head.mask_head.upsample):
        torch.nn.init.normal_(part.bias)
    features = torch.randn(PICTURES, 6, 32, 32)

    class Call(torch.nn.Module):
        def forward(self, boxes, labels):
            return head.mask_onnx_export([features], [{}], boxes, labels)

    boxes = torch.tensor([0.0, 0, 60, 60]).repeat(PICTURES, DETECTIONS, 1)
    file = io.BytesIO()
    with patches.applied(*names), export.quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            Call(),
            (boxes, torch.zeros(PICTURES, DETECTIONS, dtype=torch.long)),
            file,
            opset_version=16,
            input_names=["boxes", "labels"],
            dynamo=False,
            autograd_inlining=False,
        )
    return onnx.load_from_string(file.getvalue())


@functools.cache
def session(*arguments):
    return open_session(graph(*arguments))


def run(session, feeds):
    """The masks; a mask for all classes needs no label."""
    return session.run(None, {given.name: feeds[given.name] for given in session.get_inputs()})[0]


boxes = st.lists(
    st.tuples(st.floats(0, 60), st.floats(0, 60), st.floats(1, 100), st.floats(1, 100)), min_size=6, max_size=6
)


@pytest.mark.parametrize(("classes", "agnostic"), [(1, False), (3, False), (LARGEST, False), (3, True)])
@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(boxes, st.lists(st.integers(0, 10), min_size=6, max_size=6))
def test_the_same_masks(classes, agnostic, drawn, numbers):
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in drawn], np.float32)
    feeds = {
        "boxes": corners.reshape(PICTURES, DETECTIONS, 4),
        "labels": np.array(numbers).reshape(PICTURES, DETECTIONS) % classes,
    }
    expected, found = (run(session(names, classes, agnostic), feeds) for names in (WITHOUT, WITH))
    assert expected.shape == (PICTURES, DETECTIONS, 8, 8)
    np.testing.assert_allclose(found, expected, atol=1e-5, strict=True)


@pytest.mark.parametrize(
    ("layer", "agnostic", "picked_first"),
    [("Conv", False, True), ("Conv", True, False), ("NormedConv2d", False, False)],
)
def test_only_the_detected_class_is_computed_where_the_layer_is_a_product(layer, agnostic, picked_first):
    """NormedConv2d divides by the lengths of its weights and features."""
    made = graph(WITH, 3, agnostic, layer)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Conv") == 2
    assert [kinds.count(kind) for kind in ("MatMul", "ConvTranspose")] == [picked_first, not picked_first]
