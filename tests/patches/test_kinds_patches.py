"""The patches for kinds of model that the course's own are not, each shown on the part that it mends."""

from __future__ import annotations

import copy
import io

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import patches
from helpers.export import exporter as export
from patches.p51_pooling_by_windows import adaptive_max_pool2d


def runnable(module, example, *applied, axes=None):
    """A function of arrays: the module, as ONNX Runtime runs it exported under the patches and simplified."""
    file = io.BytesIO()
    names = [f"x{i}" for i in range(len(example))]
    with patches.applied(*applied), export.quiet_exporter():
        torch.onnx.export(module, example, file, input_names=names, dynamic_axes=axes, opset_version=16, dynamo=False)
    graph, _ = onnxsim.simplify(onnx.load_from_string(file.getvalue()), check_n=0)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return graph, lambda *arrays: session.run(None, dict(zip(names, (a.numpy() for a in arrays), strict=True)))


class Called(nn.Module):
    """A part, called as the function calls it."""

    def __init__(self, part, call):
        super().__init__()
        self.part, self.call = part, call

    def forward(self, *inputs):
        return self.call(self.part, *inputs)


def error(found, exact):
    return float(np.sqrt(np.mean((found - exact) ** 2)))


def test_group_norm_is_as_exact_as_pytorchs():
    """A group of 2 x 128 x 160 numbers; without the patch ONNX Runtime adds them up in a few running sums."""
    torch.manual_seed(0)
    norm, features = nn.GroupNorm(4, 8), torch.randn(2, 8, 128, 160) + 2
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        exact = copy.deepcopy(norm).double()(features.double()).numpy()
        single = error(norm(features).numpy(), exact)
    plain, run_plain = runnable(norm, (features,))
    steps, run_steps = runnable(norm, (features,), "p50")
    assert "InstanceNormalization" in {node.op_type for node in plain.graph.node}
    assert error(run_plain(features)[0], exact) > 5 * single
    assert error(run_steps(features)[0], exact) < 2 * single
    assert "InstanceNormalization" not in {node.op_type for node in steps.graph.node}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 5), (3, 6, 5, 7), (2, 6, 2, 3, 4)])
def test_group_norm_in_steps_is_group_norm(affine, shape):
    norm, features = nn.GroupNorm(2, 6, affine=affine), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with patches.applied("p50"), torch.no_grad():
        found = norm(features)
    with torch.no_grad():
        torch.testing.assert_close(found, norm(features))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_windows_pool_as_adaptive_pooling_does(height, width, rows, columns):
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    found = adaptive_max_pool2d(image, (rows, columns))
    assert torch.equal(found, functional.adaptive_max_pool2d(image, (rows, columns)))


def test_libras_pyramid_at_sizes_that_do_not_divide():
    """50 rows to 25 to 13, as of an input of 800."""
    from mmdet.models.necks.bfp import BFP

    torch.manual_seed(0)
    pyramid = BFP(8, 3, refine_level=1, refine_type="non_local").eval()
    neck = Called(pyramid, lambda part, *inputs: part(inputs))
    levels = [torch.randn(2, 8, 50 // n + 50 % n % 2, 76 // n) for n in (1, 2, 4)]

    with pytest.raises(torch.onnx.errors.SymbolicValueError, match="operator adaptive"):
        runnable(neck, tuple(levels))
    axes = {f"x{i}": {0: "batch"} for i in range(3)}
    _, run = runnable(neck, tuple(levels), "p51", axes=axes)
    for batch in (1, 3):
        inputs = [torch.randn(batch, *level.shape[1:]) for level in levels]
        with torch.no_grad():
            expected = pyramid(inputs)
        for one, found in zip(expected, run(*inputs), strict=True):
            np.testing.assert_allclose(found, one.numpy(), atol=1e-5)


def test_swins_windows_return_to_any_number_of_pictures():
    from mmdet.models.backbones.swin import ShiftWindowMSA

    torch.manual_seed(0)
    attention = ShiftWindowMSA(8, 2, window_size=4, shift_size=2).eval()

    block = Called(attention, lambda part, tokens: part(tokens, (8, 12)))
    example, axes = (torch.randn(3, 96, 8),), {"x0": {0: "batch"}}
    pictures = torch.randn(2, 96, 8)
    with torch.no_grad():
        expected = attention(pictures, (8, 12)).numpy()
    _, held = runnable(block, example, axes=axes)
    with pytest.raises(Exception, match=r"Reshape|shape"):
        held(pictures)
    _, run = runnable(block, example, "p53", axes=axes)
    np.testing.assert_allclose(run(pictures)[0], expected, atol=1e-5)


def test_they_leave_the_courses_own_graph_as_it_is(exported):
    """Beside the names of the patches, which a file has in its properties."""
    correct = onnx.load(exported("standard"))
    more = onnx.load(exported("standard", applied=(*export.CORRECT["standard"], *export.KINDS)))
    for model in (correct, more):
        del model.metadata_props[:]
    assert correct == more
