"""Every tensor of a run: of PyTorch, with the module that made it, and of ONNX Runtime, by its name in the graph.

Only :class:`helpers.compare.fingerprints.Fingerprint` of each is kept, so that a network with gigabytes of activations
can be recorded in little memory.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import unittest.mock
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from helpers.compare.fingerprints import Fingerprint, fingerprint, fingerprint_of_tensor
from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput
from helpers.export.exporter import bound_meta, full_input_meta, takes_image_size
from helpers.graph.cut import give_back_memory, visit_tensors
from helpers.graph.detect import detections
from helpers.graph.file import OUTPUT_NAMES
from helpers.graph.index import GraphIndex
from helpers.graph.origins import library_line
from helpers.graph.runner import GraphInputError, RunnerError

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "GraphRun",
    "Record",
    "Recording",
    "record_graph",
    "record_inference",
    "record_module",
    "record_traced_code",
    "result_arrays",
]

Array = npt.NDArray[Any]
Key = tuple[str, str, int]
# Views of as many elements as their source in another order.
_REORDERING = {"aten::permute", "aten::transpose", "aten::t"}
# Results of in-place operators above this many elements are recorded when they are next used, not at each write.
_LARGE_WRITE = 1 << 20


@dataclass(frozen=True)
class Record:
    """One tensor of a PyTorch run.

    scope: the path of the module being called; operator: the ATen operator, ``"input"`` or ``"output"`` of the module
    itself, or ``"result"`` of the whole run; ``"mul[..., 1]"`` is a column of such a tensor, recorded in inference
    only. number: counts those of the same scope and operator. line: mmdet's or mmcv's innermost line of Python, as in
    :class:`helpers.graph.origins.Origin`; recorded for traced code only. shape: of the tensor. print: its fingerprint.
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

    kept: the tensors themselves, for the keys asked for. found: what a detector returned.
    """

    records: list[Record] = field(default_factory=list)
    kept: dict[Key, Array] = field(default_factory=dict)
    found: Detections | None = None

    @functools.cached_property
    def of_line(self) -> dict[str, list[Record]]:
        """The records of each line of Python; to be asked for when the run is over."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.line, []).append(record)
        return found

    def of_scope(self, scope: str, operator: str) -> list[Record]:
        """A module's own records: its ``"input"`` or ``"output"`` tensors, over all its calls."""
        return [record for record in self.records if record.scope == scope and record.operator == operator]

    def results(self) -> list[Record]:
        """What the whole run returned."""
        return [record for record in self.records if record.operator == "result"]


class _Recorder(TorchDispatchMode):
    """Records the result of each ATen operator while active, and each module's inputs and outputs."""

    def __init__(self, keep: Sequence[Key], *, with_lines: bool = False, with_columns: bool = False) -> None:
        super().__init__()
        self.recording = Recording()
        self.keep = set(keep)
        self.with_lines = with_lines
        self.with_columns = with_columns
        self.scopes: list[str] = [""]
        self.counts: Counter[tuple[str, str]] = Counter()
        # Storages written to through a view since they were last recorded as a whole.
        self.dirty: set[int] = set()
        self.paused = False

    def add(self, operator: str, tensor: torch.Tensor) -> None:
        self._add(operator, tensor)
        # mmdet's export code handles boxes one coordinate at a time where inference has points or boxes.
        if self.with_columns and tensor.dim() > 1 and 2 <= tensor.shape[-1] <= 5 and tensor.is_floating_point():
            with _disable_current_modes():
                columns = tensor.detach().unbind(dim=-1)
            for column, part in enumerate(columns):
                self._add(f"{operator}[..., {column}]", part)

    def _add(self, operator: str, tensor: torch.Tensor) -> None:
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

    def finish(self, found: Detections) -> Recording:
        self.recording.found = found
        for array in result_arrays(found):
            self._add("result", torch.from_numpy(array))
        give_back_memory()
        return self.recording

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
        if self.paused:
            return result
        # A view with as many elements holds what is recorded already; a slice, an expansion, a transposition does not.
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        is_view = func._schema.returns and func._schema.returns[0].alias_info is not None
        same = is_view and isinstance(result, torch.Tensor) and source is not None and result.numel() == source.numel()
        if func._schema.is_mutable:
            # A write into a part: the whole is recorded when it is next looked at.
            self.dirty.update(t.untyped_storage().data_ptr() for t in args[:1] if isinstance(t, torch.Tensor))
            if isinstance(result, torch.Tensor) and result.numel() > _LARGE_WRITE:
                return result
        elif same and func._schema.name not in _REORDERING and result.untyped_storage().data_ptr() not in self.dirty:
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


def record_inference(detector: BaseDetector, prepared: NetworkInput, *, keep: Sequence[Key] = ()) -> Recording:
    """Run PyTorch's inference on one prepared picture, without rescaling, and record every tensor up to the masks'
    pasting, the last thing that inference does: it pastes one mask at a time, and a graph all of them at once.

    The results are those of :func:`result_arrays`, class by class.
    """
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    recorder = _Recorder(keep, with_columns=True)
    tensor = torch.from_numpy(prepared.tensor)
    paste = fcn_mask_head._do_paste_mask

    def unrecorded(*arguments: Any, **options: Any) -> Any:
        recorder.paused = True
        return paste(*arguments, **options)

    pausing = unittest.mock.patch.object(fcn_mask_head, "_do_paste_mask", unrecorded)
    with torch.no_grad(), pausing, recorder.hooked(detector), recorder:
        result = detector(return_loss=False, rescale=False, img=[tensor], img_metas=[[prepared.meta()]])[0]
    return recorder.finish(Detections.from_mmdet(result, prepared.resized_shape))


def result_arrays(found: Detections) -> tuple[Array, Array, Array]:
    """Detections as a graph returns them: ``dets`` (N, 5), boxes and score, ``labels`` (N,) and ``masks`` (N, H, W)."""
    return np.column_stack([found.boxes, found.scores]), found.labels, found.masks


def record_module(module: torch.nn.Module, tensor: torch.Tensor) -> Recording:
    """Run any module on one tensor and record every tensor; the results are what it returns."""
    recorder = _Recorder(())
    with torch.no_grad(), recorder.hooked(module), recorder:
        output = module(tensor)
    recorder.add_all("result", output)
    return recorder.recording


def record_traced_code(detector: BaseDetector, prepared: NetworkInput, *, keep: Sequence[Key] = ()) -> Recording:
    """Run, eagerly, the Python code that the exporter traces, and record every tensor.

    Whatever patches are applied count; with the one that clips to the picture, the code gets the picture's size. The
    results are those of :func:`record_inference`, by falling score. mmdet's stand-in for NMS, which returns random
    indices while it is traced, is replaced for the time by ONNX's
    NonMaxSuppression computed with mmcv.
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
        bound_meta(detector, full_input_meta(prepared.tensor.shape)),
        recorder.hooked(detector),
        recorder,
    ):
        sizes = [torch.tensor([prepared.resized_shape], dtype=torch.float32)] if takes_image_size() else []
        outputs = detector.forward(torch.from_numpy(prepared.tensor), *sizes)
    raw = {name: output.numpy() for name, output in zip(OUTPUT_NAMES, outputs, strict=True)}
    return recorder.finish(detections(raw, [prepared])[0])


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


@dataclass(frozen=True)
class GraphRun:
    """What one run of a graph saw: the fingerprint of every tensor that depends on the input, and the graph's outputs.

    shapes: of the same tensors. stopped_at: the first result of the node at which the runtime stopped, with its error
    as ``reason``; both empty if it did not. Of later nodes there is nothing.
    """

    prints: dict[str, Fingerprint]
    outputs: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    stopped_at: str = ""
    reason: str = ""


def record_graph(model: onnx.ModelProto | GraphIndex, feeds: Mapping[str, Array]) -> GraphRun:
    """Run the graph once as :func:`helpers.graph.cut.visit_tensors` does. A node that stops the run ends the record.

    Raises:
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape.
    """
    index = GraphIndex.of(model)
    prints: dict[str, Fingerprint] = {}
    outputs: dict[str, Array] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def take(name: str, array: Array) -> None:
        prints[name], shapes[name] = fingerprint(array), array.shape
        if name in index.outputs:
            outputs[name] = array

    try:
        visit_tensors(index, feeds, take)
    except GraphInputError:
        raise
    except RunnerError as error:
        made = (name for node in index.nodes for name in node.output if name and name not in index.fixed)
        return GraphRun(prints, outputs, shapes, next(name for name in made if name not in prints), str(error))
    return GraphRun(prints, outputs, shapes)
