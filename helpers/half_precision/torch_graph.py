"""Run an exported detector node by node with PyTorch's operators, on any device, in float32 or in true half precision.

Where :mod:`helpers.half_precision.simulation` rounds results on the CPU to simulate half precision, here each kernel
gets half-precision tensors and computes as the framework's kernels on that device do. The same nodes, names and FP32
islands make the two comparable tensor by tensor. For the ``standard`` flavour (opset 16), and only the operators that
it has.

Needs numpy, onnx and torch alone, so that it runs on a machine that has neither mmcv nor torchvision. Two operators are
not PyTorch's: RoIAlign and NonMaxSuppression are written here, and compute in float32 on half-precision numbers, as
:mod:`helpers.half_precision.simulation` has them: NonMaxSuppression reads an island's results unrounded, and RoIs that
are not finite, far outside or the wrong way round get the answers that its docstring gives.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as functional
from onnx import TensorProto, helper, numpy_helper

from helpers.graph.index import GraphIndex
from helpers.graph.runner import RunnerError, checked_feeds, checked_outputs
from helpers.half_precision.rules import FAR_ROI, FP32_ONLY

__all__ = ["DTYPES", "OPERATORS", "Found", "NonFinite", "TorchGraph", "TorchGraphError", "hunt"]

Array = npt.NDArray[Any]
Tensor = torch.Tensor
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Samples of RoIAlign at a time; each takes about 100 bytes.
_CHUNK = 1 << 22


class TorchGraphError(RunnerError):
    """The graph has an operator or an attribute that is not known here, or the device is missing."""


class TorchGraph:
    """A graph with its weights on a device, ready to run.

    device: as torch names it. dtype: of all float tensors outside of the FP32 islands. keep: names of the nodes of the
    islands, which read weights, constants and the graph's inputs exactly, and each other's results unrounded; a node
    outside reads an island's result rounded.

    Raises:
        TorchGraphError: an operator or attribute that is not known, a node to keep that is not there, no such device.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        keep: Collection[str] = (),
    ) -> None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise TorchGraphError("PyTorch finds no GPU here", "use the device cpu, or a machine with an NVIDIA GPU")
        index = GraphIndex(model)
        missing = sorted(set(keep) - {node.name for node in index.nodes})
        if missing:
            raise TorchGraphError(f"the graph has no node {missing[0]!r} to keep", "take the names from this graph")
        self.device, self.dtype = torch.device(device), dtype
        self.name, self.output_names = "the graph", index.outputs
        self._wanted = index.declared()
        self.input_shapes = {name: shape for name, (_, shape) in self._wanted.items() if shape is not None}
        exact = {tensor.name: self._to_device(numpy_helper.to_array(tensor)) for tensor in index.initializers.values()}
        self._steps = [_step(node, node.name in set(keep) or node.op_type in FP32_ONLY) for node in index.nodes]
        for step in self._steps:
            if step.operator == "Constant":
                exact[step.results[0]] = self._to_device(numpy_helper.to_array(step.attributes["value"]))
        self._read_outside = {name for step in self._steps if not step.kept for name in step.inputs}
        # By whether an island reads them.
        self._constants = {True: exact, False: {name: self._rounded(tensor) for name, tensor in exact.items()}}
        last = {name: i for i, step in enumerate(self._steps) for name in (*step.inputs, *step.results)}
        self._dying: list[list[str]] = [[] for _ in self._steps]
        for name, i in last.items():
            self._dying[i].append(name)

    def _to_device(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _rounded(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        visit: Callable[[str, Tensor], None] | None = None,
    ) -> dict[str, Array]:
        """The named outputs (all by default; floats as float32). Every node is run, whatever is asked for, and each
        tensor is freed after its last use.

        visit: called with the name of each float tensor that a node makes and the tensor, in graph order; an island's
        result comes as its readers outside get it, rounded, if it has any.

        Raises:
            helpers.graph.runner.GraphInputError: an input is missing or has another type or shape, or an output is not
                in the graph.
            helpers.graph.runner.RunnerError: PyTorch cannot compute a node, or the device's memory is full.
        """
        made = (*self.output_names, *(name for step in self._steps for name in step.results))
        wanted = self.output_names if outputs is None else checked_outputs(self.name, made, outputs)
        given = checked_feeds(self.name, self._wanted, feeds)
        with _translated("an input"):
            values = {name: self._to_device(array) for name, array in given.items()}
        # An output may be an input or a constant as it is.
        kept_results = {name: tensor for name, tensor in (self._constants[True] | values).items() if name in wanted}
        with torch.inference_mode():
            for step, dying in zip(self._steps, self._dying, strict=True):
                with _translated(step.name):
                    results = dict(zip(step.results, self._results(step, values), strict=True))
                for name, tensor in results.items():
                    values[name] = tensor
                    if name in wanted:
                        kept_results[name] = tensor
                    if visit is not None and tensor.is_floating_point():
                        visit(name, self._rounded(tensor) if name in self._read_outside else tensor)
                for name in dying:
                    values.pop(name, None)
        # Copies, for a result may be a constant of the graph, or a part of another result.
        with _translated("an output"):
            return {
                name: tensor.to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True).numpy()
                for name, tensor in kept_results.items()
            }

    def _results(self, step: _Step, values: Mapping[str, Tensor]) -> Sequence[Tensor]:
        constants = self._constants[step.kept]
        if step.operator == "Constant":
            return [constants[step.results[0]]]

        def read(name: str) -> Tensor | None:
            if not name:
                return None
            if name in constants:
                return constants[name]
            tensor = values[name]
            if not tensor.is_floating_point():
                return tensor
            return tensor.float() if step.kept else self._rounded(tensor)

        made = OPERATORS[step.operator](*map(read, step.inputs), **step.attributes)
        results = [made] if isinstance(made, Tensor) else made
        return results if step.kept else [self._rounded(tensor) for tensor in results]


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """PyTorch's errors as the one that every runner raises."""
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise RunnerError(f"PyTorch stopped inside the graph, at {where} ({said})", "check the input") from error


@dataclass(frozen=True)
class _Step:
    operator: str
    name: str
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    attributes: dict[str, Any]
    kept: bool


def _step(node: onnx.NodeProto, kept: bool) -> _Step:
    where = node.name or node.output[0]
    if node.domain not in ("", "ai.onnx") or node.op_type not in (*OPERATORS, "Constant"):
        raise TorchGraphError(
            f"the operator {node.op_type} of {where} is not known here", "use a graph of the standard flavour"
        )
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    known = inspect.signature(OPERATORS[node.op_type]).parameters if node.op_type != "Constant" else ("value",)
    for name in attributes:
        if name not in known:
            raise TorchGraphError(f"the attribute {name!r} of {where} is not known here", f"add it to {node.op_type}")
    return _Step(node.op_type, where, tuple(node.input), tuple(node.output), attributes, kept)


# --- the hunt ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NonFinite:
    """A float tensor with a value that is not finite: its name, and whether it holds inf, and NaN."""

    tensor: str
    inf: bool
    nan: bool


@dataclass(frozen=True)
class Found:
    """suspects: the tensors that are not finite, in graph order, by the names that
    :func:`helpers.half_precision.simulation.hunt` gives its own; watched: how many float tensors were looked at;
    outputs: of the run, those that were asked for.
    """

    suspects: tuple[NonFinite, ...]
    watched: int
    outputs: Mapping[str, Array]

    @property
    def first_inf(self) -> str | None:
        return next((suspect.tensor for suspect in self.suspects if suspect.inf), None)

    @property
    def first_nan(self) -> str | None:
        return next((suspect.tensor for suspect in self.suspects if suspect.nan), None)


def hunt(graph: TorchGraph, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> Found:
    """Run the graph and say which float tensors are not finite; ``outputs`` of the same run come along.

    Raises:
        helpers.graph.runner.RunnerError: as :meth:`TorchGraph.run`.
    """
    names: list[str] = []
    flags: list[Tensor] = []

    def visit(name: str, tensor: Tensor) -> None:
        names.append(name)
        # Left on the device until the end: a look at each would stop it hundreds of times.
        flags.append(torch.stack([tensor.isinf().any(), tensor.isnan().any()]))

    arrays = graph.run(feeds, outputs, visit=visit)
    table = torch.stack(flags).cpu().tolist() if flags else []
    suspects = (NonFinite(name, inf, nan) for name, (inf, nan) in zip(names, table, strict=True) if inf or nan)
    return Found(tuple(suspects), len(names), arrays)


# --- the operators: inputs in ONNX's order, its attributes as keywords with its defaults ------------------------------


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise TorchGraphError(f"{what} is not known here", "use a graph of the standard flavour")


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator without attributes. torch's functions have no signature to look at."""

    def operator(*inputs: Tensor) -> Tensor:
        return function(*inputs)

    return operator


def _cast(x: Tensor, *, to: int) -> Tensor:
    kind = {int(TensorProto.FLOAT): torch.float32, int(TensorProto.INT64): torch.int64}.get(to)
    _require(kind is not None, f"Cast to {helper.tensor_dtype_to_string(to)}")
    return x.to(kind)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, low, high)


def _concat(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


def _padding(pads: Sequence[int], what: str) -> tuple[int, int]:
    """ONNX's begins and ends of height and width, as PyTorch's one number for both ends."""
    _require(len(pads) == 4 and pads[:2] == pads[2:], f"{what} with pads {list(pads)}")
    return pads[0], pads[1]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> Tensor:
    # kernel_shape only repeats the weight's.
    return functional.conv2d(x, weight, bias, tuple(strides), _padding(pads, "Conv"), tuple(dilations), group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> Tensor:
    padding = _padding(pads, "ConvTranspose")
    return functional.conv_transpose2d(
        x, weight, bias, tuple(strides), padding, groups=group, dilation=tuple(dilations)
    )


def _div(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    # ONNX broadcasts both ways: a 1 in the shape keeps the tensor's own size.
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis if axis >= 0 else axis + x.ndim
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    _require(alpha == beta == transB == 1 and not transA, "Gemm other than a fully connected layer")
    return functional.linear(a, b, c)


def _grid_sample(
    x: Tensor, grid: Tensor, *, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    return functional.grid_sample(x, grid, mode, padding_mode, bool(align_corners))


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    ceil_mode: int = 0,
) -> Tensor:
    padding = _padding(pads, "MaxPool")
    return functional.max_pool2d(
        x, tuple(kernel_shape), tuple(strides), padding, tuple(dilations), ceil_mode=bool(ceil_mode)
    )


def _reduce_max(x: Tensor, *, axes: Sequence[int], keepdims: int = 1) -> Tensor:
    return torch.amax(x, tuple(axes), bool(keepdims))


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    _require(not allowzero, "Reshape with allowzero")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _resize(
    x: Tensor,
    regions: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
) -> Tensor:
    kind = (coordinate_transformation_mode, mode, nearest_mode)
    _require(kind == ("asymmetric", "nearest", "floor"), f"Resize in the mode {', '.join(kind)}")
    _require(sizes is not None and scales is None and regions is None, "Resize other than by sizes")
    assert sizes is not None
    size = sizes.tolist()
    _require(tuple(size[:2]) == x.shape[:2], "Resize of batch or channels")
    return functional.interpolate(x, size[2:], mode="nearest")


def _scatter_nd(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    result = data.clone()
    result[indices.unbind(-1)] = updates
    return result


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64, device=x.device)


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor | None = None) -> Tensor:
    index = [slice(None)] * x.ndim
    by = [1] * len(axes) if steps is None else steps.tolist()
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), by, strict=True):
        _require(step > 0, f"Slice by a step of {step}")
        # Python's clamping of both ends is ONNX's.
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def _split(x: Tensor, sizes: Tensor, *, axis: int = 0) -> tuple[Tensor, ...]:
    return x.split(sizes.tolist(), axis)


def _squeeze(x: Tensor, axes: Tensor) -> Tensor:
    return x.squeeze(tuple(axes.tolist()))


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def _top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    # torch.topk may take any of equal values; ONNX wants the one with the lower index.
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = int(k)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(*perm)


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    places = axes.tolist()
    for place in sorted(axis % (x.ndim + len(places)) for axis in places):
        x = x.unsqueeze(place)
    return x


def _non_max_suppression(
    boxes: Tensor, scores: Tensor, limit: Tensor, iou: Tensor, threshold: Tensor, *, center_point_box: int = 0
) -> Tensor:
    """boxes (B, N, 4), scores (B, C, N) float32 to rows of batch, class, box (K, 3) int64; on the CPU, by numpy."""
    _require(not center_point_box, "NonMaxSuppression of centres and sizes")
    most, overlap, floor = int(limit), float(iou), float(threshold)
    rows: list[tuple[int, int, int]] = []
    for b, (of_picture, by_class) in enumerate(zip(boxes.cpu().numpy(), scores.cpu().numpy(), strict=True)):
        for c, of_class in enumerate(by_class):
            order = np.argsort(-of_class, kind="stable")
            order = order[of_class[order] > floor]
            rows += [(b, c, int(i)) for i in order[_suppress(of_picture[order], overlap, most)]]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _suppress(boxes: Array, overlap: float, most: int) -> Array:
    """Indices of the boxes, by falling score, that no better one covers by more than ``overlap``, ``most`` of them."""
    # The comparisons are so written that a box with NaN, or of infinite area, suppresses none, as in ONNX Runtime.
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    kept: list[int] = []
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        area = (high - low).prod(axis=1)
        left = np.arange(len(boxes))
        while len(left) and len(kept) < most:
            best, left = left[0], left[1:]
            kept.append(int(best))
            sides = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left])
            common = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0)
            left = left[~(common / (area[best] + area[left] - common) > np.float32(overlap))]
    return np.array(kept, np.int64)


def _roi_align(
    features: Tensor,
    rois: Tensor,
    batch: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """features (B, C, H, W), rois (R, 4) x1 y1 x2 y2 in px, batch (R,) to (R, C, height, width), in float32."""
    kind = (coordinate_transformation_mode, mode)
    _require(kind == ("half_pixel", "avg"), f"RoiAlign in the mode {', '.join(kind)}")
    features, rois = features.float(), rois.float()
    # x - x is 0, or NaN where x is not finite.
    poison = (rois - rois).sum(1)
    near = torch.where(rois.abs() < FAR_ROI, rois, 0.0)
    near = torch.where((near[:, :2] > near[:, 2:]).any(1, keepdim=True), 0.0, near)
    first, second = (near * spatial_scale - 0.5).split(2, dim=1)
    bins = torch.tensor([output_width, output_height], device=rois.device)
    size = (second - first) / bins
    # Samples in each bin, along x and y; none in an empty RoI.
    counts = torch.full_like(size, sampling_ratio).long() if sampling_ratio else size.ceil().long()
    channels_last = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    results = [
        _average_samples(channels_last, features.shape, first[part], size[part], counts[part], batch[part], bins)
        for part in _chunks(counts.prod(1) * bins.prod())
    ]
    result = torch.cat(results) if results else features.new_zeros(0, features.shape[1])
    result = result.reshape(len(rois), output_height, output_width, features.shape[1]).permute(0, 3, 1, 2)
    return result + poison.reshape(-1, 1, 1, 1)


def _chunks(samples: Tensor) -> list[slice]:
    """Runs of RoIs of about _CHUNK samples; a RoI is never cut."""
    chunk = (samples.cumsum(0) // _CHUNK).cpu().numpy()
    starts = [0, *(np.flatnonzero(np.diff(chunk)) + 1).tolist(), len(chunk)]
    return [slice(start, end) for start, end in itertools.pairwise(starts) if end > start]


def _average_samples(
    channels_last: Tensor, shape: Sequence[int], first: Tensor, size: Tensor, counts: Tensor, batch: Tensor,
    bins: Tensor,
) -> Tensor:  # fmt: skip
    """Means of bilinear samples, (R * bins, C): every bin is a bag of weighted rows of the features."""
    device, (_, _, height, width) = first.device, shape
    across, down = bins.tolist()
    per_bin = counts.prod(1).repeat_interleave(across * down)
    begins = per_bin.cumsum(0) - per_bin
    bag = torch.arange(len(per_bin), device=device).repeat_interleave(per_bin)
    number = torch.arange(len(bag), device=device) - begins[bag]
    roi, place = bag // (across * down), bag % (across * down)
    # x first, then y.
    at_bin = torch.stack([place % across, place // across], 1)
    in_bin = torch.stack([number % counts[roi, 0], number // counts[roi, 0]], 1)
    point = first[roi] + at_bin * size[roi] + (in_bin + 0.5) * size[roi] / counts[roi]
    limit = torch.tensor([width, height], device=device)
    inside = ((point >= -1) & (point <= limit)).all(1)
    point = point.clamp(min=0)
    low = torch.minimum(point.floor(), limit - 1)
    above = point - low
    low = low.long()
    # On the last row or column both are the same pixel, and the shares add up to 1.
    high = torch.minimum(low + 1, limit - 1)
    rows, weights = [], []
    for x, share_x in ((low[:, 0], 1 - above[:, 0]), (high[:, 0], above[:, 0])):
        for y, share_y in ((low[:, 1], 1 - above[:, 1]), (high[:, 1], above[:, 1])):
            rows.append((batch[roi] * height + y) * width + x)
            weights.append(share_x * share_y * inside / per_bin[bag])
    return functional.embedding_bag(
        torch.stack(rows, 1).reshape(-1),
        channels_last,
        begins * 4,
        mode="sum",
        per_sample_weights=torch.stack(weights, 1).reshape(-1),
    )


#: By ONNX's name: what the standard flavour of the detector is made of, and no more.
OPERATORS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Add": _plain(torch.add),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _div,
    "Equal": _plain(torch.eq),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt),
    "GridSample": _grid_sample,
    "Log": _plain(torch.log),
    "MaxPool": _max_pool,
    "Min": _plain(torch.minimum),
    "Mul": _plain(torch.mul),
    "NonMaxSuppression": _non_max_suppression,
    "ReduceMax": _reduce_max,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
