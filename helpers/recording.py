"""Every tensor of a run: of PyTorch, with the module that made it, and of ONNX Runtime, by its name in the graph.

Only :class:`helpers.fingerprints.Fingerprint` of each is kept, so that a network with gigabytes of activations can be
recorded in little memory.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import sys
import types
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import shape_inference
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from tqdm import tqdm

from helpers.errors import CourseError
from helpers.export import bound_meta, full_input_meta, library_line
from helpers.fingerprints import Fingerprint, fingerprint, fingerprint_of_tensor
from helpers.ort_runner import open_session, run_session

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "GraphInputError",
    "Record",
    "Recording",
    "check_feeds",
    "constants",
    "extract",
    "record_graph",
    "record_inference",
    "record_traced_code",
    "run_graph",
    "visit_tensors",
]

Array = npt.NDArray[Any]
Key = tuple[str, str, int]
# Outputs of a part of the graph that are held at once; the largest single tensor (0.8 GB) may exceed it.
_PART_BYTES = 400 << 20
# Results of in-place operators above this many elements are recorded when they are next used, not at each write.
_LARGE_WRITE = 1 << 23


class GraphInputError(CourseError):
    """The array given to a graph is not what it takes."""


@dataclass(frozen=True)
class Record:
    """One tensor of a PyTorch run.

    scope: the path of the module being called; operator: the ATen operator, ``"input"`` or ``"output"`` of the module
    itself, or ``"result"`` of the whole run; number: counts those of the same scope and operator. line: mmdet's or
    mmcv's innermost line of Python, as in :class:`helpers.export.Origin`; recorded for traced code only. shape: of the
    tensor. print: its fingerprint.
    """

    index: int
    scope: str
    operator: str
    number: int
    line: str
    shape: tuple[int, ...]
    print: Fingerprint

    @property
    def key(self) -> Key:
        """Names the same tensor in a second run."""
        return (self.scope, self.operator, self.number)

    def __str__(self) -> str:
        return f"{self.operator} {list(self.shape)} in {self.scope or 'the detector'}"


@dataclass
class Recording:
    """All records of one run, in the order in which they were made.

    kept: the tensors themselves, for the keys asked for.
    """

    records: list[Record] = field(default_factory=list)
    kept: dict[Key, Array] = field(default_factory=dict)

    def of_scope(self, scope: str, operator: str) -> list[Record]:
        """A module's own records: its ``"input"`` or ``"output"`` tensors, over all its calls."""
        return [record for record in self.records if record.scope == scope and record.operator == operator]

    def results(self) -> list[Record]:
        """What the whole run returned."""
        return [record for record in self.records if record.operator == "result"]


class _Recorder(TorchDispatchMode):
    """Records the result of each ATen operator while active, and each module's inputs and outputs."""

    def __init__(self, keep: Sequence[Key], *, with_lines: bool = False) -> None:
        super().__init__()
        self.recording = Recording()
        self.keep = set(keep)
        self.with_lines = with_lines
        self.scopes: list[str] = [""]
        self.counts: Counter[tuple[str, str]] = Counter()
        # Storages written to through a view since they were last recorded as a whole.
        self.dirty: set[int] = set()

    def add(self, operator: str, tensor: torch.Tensor) -> None:
        scope = self.scopes[-1]
        number = self.counts[scope, operator]
        self.counts[scope, operator] += 1
        # Called from a module's hook, the recorder would record its own arithmetic.
        with _disable_current_modes():
            print_ = fingerprint_of_tensor(tensor)
        record = Record(
            index=len(self.recording.records),
            scope=scope,
            operator=operator,
            number=number,
            line=_calling_line() if self.with_lines else "",
            shape=tuple(tensor.shape),
            print=print_,
        )
        if record.key in self.keep:
            self.recording.kept[record.key] = tensor.detach().cpu().numpy().copy()
        self.recording.records.append(record)

    def add_all(self, operator: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self.add(operator, value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.add_all(operator, item)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view with as many elements holds what is recorded already; a slice or an expansion does not.
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        is_view = func._schema.returns and func._schema.returns[0].alias_info is not None
        same = is_view and isinstance(result, torch.Tensor) and source is not None and result.numel() == source.numel()
        if func._schema.is_mutable:
            # A write into a part: the whole is recorded when it is next looked at.
            self.dirty.update(t.untyped_storage().data_ptr() for t in args[:1] if isinstance(t, torch.Tensor))
            # mmdet pastes masks one by one into a tensor of all: a hundred writes, of which the last counts.
            if isinstance(result, torch.Tensor) and result.numel() > _LARGE_WRITE:
                return result
        elif same and result.untyped_storage().data_ptr() not in self.dirty:
            return result
        elif is_view and isinstance(result, torch.Tensor):
            self.dirty.discard(result.untyped_storage().data_ptr())
        self.add_all(func._schema.name.removeprefix("aten::"), result)
        return result

    @contextlib.contextmanager
    def hooked(self, detector: torch.nn.Module) -> Iterator[None]:
        handles = []
        for name, module in detector.named_modules():
            if not name:
                continue

            def enter(_: Any, inputs: Any, scope: str = name) -> None:
                self.scopes.append(scope)
                self.add_all("input", inputs)

            def leave(_: Any, inputs: Any, output: Any) -> None:
                self.add_all("output", output)
                self.scopes.pop()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _calling_line() -> str:
    frame: types.FrameType | None = sys._getframe(1)
    while frame:
        if line := library_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name):
            return line
        frame = frame.f_back
    return ""


def _give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    glibc keeps the pieces that a hundred mask-sized allocations leave behind: 3.3 of 4.0 GB after recording one run,
    measured, which the next run would then come on top of.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def record_inference(detector: BaseDetector, tensor: npt.NDArray[np.float32], *, keep: Sequence[Key] = ()) -> Recording:
    """Run PyTorch's inference on a full input (1, 3, H, W) and record every tensor.

    The results are ``dets`` (n, 5), ``labels`` (n,) and ``masks`` (n, H, W), as an exported graph orders them, but of
    the detections only.
    """
    recorder = _Recorder(keep)
    meta = full_input_meta(tensor.shape)
    meta["scale_factor"] = np.ones(4, np.float32)
    with torch.no_grad(), recorder.hooked(detector), recorder:
        result = detector(return_loss=False, rescale=False, img=[torch.from_numpy(tensor)], img_metas=[[meta]])[0]
    boxes, masks = result
    labels = np.repeat(np.arange(len(boxes)), [len(rows) for rows in boxes])
    of_all = [mask for of_class in masks for mask in of_class]
    stacked = np.stack(of_all) if of_all else np.zeros((0, *tensor.shape[2:]), bool)
    for array in (np.concatenate(boxes).astype(np.float32), labels, stacked.astype(np.float32)):
        recorder.add("result", torch.from_numpy(array))
    _give_back_memory()
    return recorder.recording


def record_traced_code(
    detector: BaseDetector, tensor: npt.NDArray[np.float32], *, keep: Sequence[Key] = ()
) -> Recording:
    """Run, eagerly, the Python code that the exporter traces, and record every tensor.

    Whatever patches are applied count. mmdet's stand-in for NMS, which returns random indices while it is traced, is
    replaced for the time by ONNX's NonMaxSuppression computed with mmcv.
    """
    from mmdet.core.export import onnx_helper

    recorder = _Recorder(keep, with_lines=True)

    def suppress(boxes: Any, scores: Any, most: Any, iou_threshold: Any, score_threshold: Any) -> torch.Tensor:
        chosen = _onnx_nms(boxes, scores, int(most), float(iou_threshold), float(score_threshold))
        recorder.add("NonMaxSuppression", chosen)
        return chosen

    with (
        torch.no_grad(),
        unittest.mock.patch.object(torch.onnx, "is_in_onnx_export", return_value=True),
        unittest.mock.patch.object(onnx_helper.DummyONNXNMSop, "apply", suppress),
        bound_meta(detector, full_input_meta(tensor.shape)),
        recorder.hooked(detector),
        recorder,
    ):
        outputs = detector.forward(torch.from_numpy(tensor))
    recorder.add_all("result", outputs)
    _give_back_memory()
    return recorder.recording


def _onnx_nms(
    boxes: torch.Tensor, scores: torch.Tensor, most: int, iou_threshold: float, score_threshold: float
) -> torch.Tensor:
    """ONNX's NonMaxSuppression: boxes (B, N, 4) and scores (B, C, N) to (K, 3) rows of (batch, class, box)."""
    from mmcv.ops import nms

    rows = []
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            candidates = torch.nonzero(scores[batch, label] > score_threshold)[:, 0]
            if len(candidates):
                chosen = nms(
                    boxes[batch, candidates].contiguous(), scores[batch, label, candidates].contiguous(), iou_threshold
                )[1]
                kept = candidates[chosen[:most]]
                rows.append(torch.stack([torch.full_like(kept, batch), torch.full_like(kept, label), kept], dim=1))
    return torch.cat(rows) if rows else torch.zeros((0, 3), dtype=torch.long)


def constants(model: onnx.ModelProto) -> set[str]:
    """The names of all tensors that do not depend on the graph's inputs."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if all(name in known for name in node.input) and not _has_body(node):
            known.update(node.output)
    return known


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)


def extract(
    model: onnx.ModelProto, outputs: Sequence[str], inputs: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """The part of a graph between ``inputs`` (arrays that stand in for tensors; default: the graph's own) and outputs.

    Raises:
        GraphInputError: an output does not exist.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    given = set(inputs or {})
    needed: set[str] = set()
    used: set[str] = set()
    stack = list(outputs)
    own_inputs = {value.name for value in model.graph.input}
    initial = {tensor.name for tensor in model.graph.initializer}
    while stack:
        name = stack.pop()
        if name in used or not name:
            continue
        used.add(name)
        if name in given:
            continue
        if name in producer:
            node = producer[name]
            needed.update(node.output)
            stack += node.input
        elif name not in own_inputs | initial:
            raise GraphInputError(f"the graph has no tensor {name!r}", "take a name from a node's outputs")
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(node for node in model.graph.node if needed.intersection(node.output))
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    part.graph.input.extend(value for value in model.graph.input if value.name in used - given)
    for name, array in (inputs or {}).items():
        if name in used:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    # Without a type: ONNX Runtime infers it.
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def check_feeds(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's inputs by name, each of the type and the shape that the graph declares; other feeds are left out.

    Raises:
        GraphInputError: an input is missing, or has another type or shape.
    """
    constant = {value.name for value in model.graph.initializer}
    checked = {}
    for value in model.graph.input:
        if value.name in constant:
            continue
        if value.name not in feeds:
            raise GraphInputError(
                f"the graph takes an input {value.name!r}, and the feeds have {', '.join(feeds) or 'nothing'}",
                "give an array for each of the graph's inputs",
            )
        array = feeds[value.name]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        wanted = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        ranked = value.type.tensor_type.HasField("shape")
        fits = not ranked or len(wanted) == array.ndim
        if (
            array.dtype != kind
            or not fits
            or any(w not in (-1, have) for w, have in zip(wanted, array.shape, strict=False))
        ):
            raise GraphInputError(
                f"the graph takes {kind} {wanted if ranked else ''} as {value.name!r}, "
                f"got {array.dtype} {list(array.shape)}",
                "prepare the picture for this model",
            )
        checked[value.name] = array
    return checked


def _as_feeds(model: onnx.ModelProto, tensor: Array) -> dict[str, Array]:
    constant = {value.name for value in model.graph.initializer}
    return check_feeds(model, {next(value.name for value in model.graph.input if value.name not in constant): tensor})


def run_graph(model: onnx.ModelProto, tensor: npt.NDArray[np.float32], outputs: Sequence[str]) -> dict[str, Array]:
    """Any tensors of the graph by name, inner ones too, as ONNX Runtime computes them without its optimisations."""
    part = extract(model, outputs)
    inputs = _as_feeds(model, tensor)
    needed = {value.name for value in part.graph.input}  # none, for constants
    session = open_session(part, optimise=False)
    return run_session(session, outputs, {name: array for name, array in inputs.items() if name in needed})


def record_graph(
    model: onnx.ModelProto,
    tensor: npt.NDArray[np.float32],
    *,
    on_tensor: Callable[[str, Array], None] | None = None,
) -> dict[str, Fingerprint]:
    """The fingerprint of every tensor that depends on the input, from one run as :func:`visit_tensors` does it.

    ``on_tensor`` gets each name with its array.

    Raises:
        GraphInputError: the array is not the graph's input.
        helpers.ort_runner.RunnerError: ONNX Runtime refuses a part.
    """
    found: dict[str, Fingerprint] = {}

    def take(name: str, array: Array) -> None:
        found[name] = fingerprint(array)
        if on_tensor:
            on_tensor(name, array)

    visit_tensors(model, _as_feeds(model, tensor), take)
    return found


def visit_tensors(model: onnx.ModelProto, feeds: Mapping[str, Array], visit: Callable[[str, Array], None]) -> None:
    """Run the graph once in ONNX Runtime and call ``visit`` with name and array of every tensor that a node makes from
    the inputs, in graph order.

    The graph is cut into parts that each output everything they compute; a part takes what it needs from the ones
    before it, and a tensor is dropped after its last use. So each node runs once, and memory stays below the sum of
    what is alive at one place and 0.4 GB. ONNX Runtime's optimisations are off: they would fuse away tensors. Node
    order must be topological, as ONNX demands.

    Raises:
        GraphInputError: an input is missing, or has another type or shape.
        helpers.ort_runner.RunnerError: ONNX Runtime refuses a part.
    """
    alive = check_feeds(model, feeds)
    fixed = constants(model)
    nodes = [node for node in model.graph.node if not set(node.output) <= fixed]
    last_use = {name: position for position, node in enumerate(nodes) for name in node.input}
    sizes = _tensor_bytes(model, alive)
    progress = tqdm(total=len(nodes), desc="ONNX Runtime", unit="node", leave=False)
    start = 0
    with progress:
        while start < len(nodes):
            stop, total = start, 0
            while stop < len(nodes) and (stop == start or total < _PART_BYTES):
                total += sum(sizes.get(name, 0) for name in nodes[stop].output)
                stop += 1
            names = [name for node in nodes[start:stop] for name in node.output if name]
            part = extract(model, names, alive)
            wanted = {value.name for value in part.graph.input}
            session = open_session(part, optimise=False)
            results = run_session(session, names, {name: alive[name] for name in wanted})
            for name, array in results.items():
                visit(name, array)
            alive |= results
            del results, session
            alive = {name: array for name, array in alive.items() if last_use.get(name, -1) >= stop}
            _give_back_memory()
            progress.update(stop - start)
            start = stop


def _tensor_bytes(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Estimated sizes from ONNX's shape inference at the feeds' shapes; tensors of unknown shape are left out."""
    bare = copy.deepcopy(model)
    for value in bare.graph.input:
        if value.name in feeds:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, feeds[value.name].shape))
    inferred = shape_inference.infer_shapes(bare, data_prop=True)
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            count = int(np.prod([max(dim.dim_value, 1) for dim in kind.shape.dim], dtype=np.int64))
            sizes[value.name] = count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize
    return sizes
