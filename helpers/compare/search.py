"""The first node at which an exported graph stops computing what PyTorch computes, found without being told where.

Three runs of one input are compared, tensor by tensor:

- *inference*: PyTorch, as the detector is used;
- *traced code*: PyTorch again, eagerly, but through the Python code that the exporter traced;
- the *graph*, in ONNX Runtime, with every inner tensor exposed.

Traced code against graph tells whether exporter and runtime did their work; inference against graph also tells whether
the traced code is the right code. In both comparisons the search does the same:

1. A tensor of the graph *agrees* if the reference run has, anywhere, a tensor with the same numbers, in whatever shape
   and order (:mod:`helpers.compare.fingerprints`).
2. A tensor is *expected* to agree if it is an output of the graph, or crosses the border of a module, or (traced code
   only) of a line of Python, at which the reference recorded a tensor of that size; rows of zeros that fill up a list
   do not count. The first of these, in graph order, that does not agree is the *symptom*. Other tensors need no
   counterpart: export code may compute the same in another way.
3. From the symptom the search goes backwards, and stops wherever a tensor agrees. What it passes is the *region*. The
   *culprit* is the first node of the region all of whose inputs agree: right numbers go in, and what comes out leads to
   wrong ones. A node that only moves its inputs about passes on their agreement.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import onnx
from matplotlib.collections import LineCollection

import patches
from helpers.compare.fingerprints import TOLERANCE, Fingerprint, distance, fingerprint, without_padding
from helpers.compare.recording import Record, Recording, record_graph, record_inference, record_traced_code
from helpers.detector.preprocess import NetworkInput
from helpers.errors import CourseError
from helpers.graph.cut import constants, run_graph
from helpers.graph.detect import feeds
from helpers.graph.file import exported_with
from helpers.graph.origins import Origin, origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mmdet.models.detectors import BaseDetector

__all__ = ["Finding", "ForeignGraphError", "NoDisagreementError", "SearchReport", "difference_figure", "search"]

Array = npt.NDArray[Any]
# Operators whose output holds numbers of their first input (all inputs, for Concat) and no others.
_MOVES_DATA = {
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split"),
    *("Gather", "GatherND", "Concat", "Cast", "Expand", "Tile"),
}


class NoDisagreementError(CourseError):
    """The search was asked for its finding, and there is none: graph and PyTorch agree on this input."""


class ForeignGraphError(CourseError):
    """The graph was not exported from this detector, so there is nothing to compare."""


@dataclass(frozen=True)
class Finding:
    """Where one comparison first goes wrong.

    reference: ``"inference"`` or ``"traced code"``. node, operator, where: the culprit. symptom: name of the first
    tensor that should agree and does not; expected: its counterpart in the reference, if there is one of that size.
    region: the nodes between the agreeing tensors and the symptom. others: further nodes of the region with agreeing
    inputs, in graph order.
    """

    reference: str
    node: str
    operator: str
    where: Origin
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symptom: str
    expected: Record | None
    region: tuple[str, ...]
    others: tuple[str, ...]
    position: int

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}), made by {self.where}"


@dataclass(frozen=True)
class SearchReport:
    """What a search compared and found.

    compared: tensors of the graph that depend on its input. agreeing: how many of them have a counterpart in the traced
    code and in inference. found: the finding, None if all agree; findings: of each comparison by itself. seconds: wall
    time. peak_mb: highest memory of this process so far.
    """

    compared: int
    agreeing: dict[str, int]
    found: Finding | None
    seconds: float
    peak_mb: float
    findings: dict[str, Finding | None]
    recordings: dict[str, Recording] = field(repr=False)

    def culprit(self) -> Finding:
        """The finding. Raises :class:`NoDisagreementError` if there is none."""
        if self.found is None:
            raise NoDisagreementError(
                f"all of the {self.compared} tensors that should agree do", "try another picture, or be glad"
            )
        return self.found

    def __str__(self) -> str:
        counts = ", ".join(f"{count} have a counterpart in {name}" for name, count in self.agreeing.items())
        head = f"{self.compared} tensors compared in {self.seconds:.0f} s ({self.peak_mb:.0f} MB): {counts}."
        if self.found is None:
            return f"{head}\nEverything that should agree does."
        found = self.found
        expected = f" (expected {found.expected})" if found.expected else ""
        return (
            f"{head}\nFirst disagreement, with {found.reference}: {found.node} ({found.operator})\n"
            f"  made by    {found.where}\n"
            f"  its inputs agree: {', '.join(found.inputs)}\n"
            f"  symptom    {found.symptom}{expected}\n"
            f"  in between {len(found.region)} nodes"
        )


def search(
    detector: BaseDetector,
    model: onnx.ModelProto,
    prepared: NetworkInput,
    *,
    drop_padding: bool = False,
    recordings: dict[str, Recording] | None = None,
) -> SearchReport:
    """Find the first node at which ``model`` stops computing what ``detector`` computes on one prepared picture.

    ``drop_padding`` compares the graph's outputs without the rows of score 0 that fill them up (with inference; the
    traced code has such rows too, and may fill them with other classes of score 0: take a picture that fills all rows,
    or expect a finding in the last TopK). ``recordings`` are
    those of an earlier report on the same detector, input and patches: searching another version of the graph then
    takes only the run of the graph.

    Raises:
        ForeignGraphError: the graph belongs to another model.
        helpers.graph.runner.GraphInputError: the picture was not prepared for this graph.
    """
    start = time.perf_counter()
    _check_same_model(detector, model)
    recordings = dict(recordings or {})
    if "traced code" not in recordings:
        with patches.applied(*exported_with(model)):
            recordings["traced code"] = record_traced_code(detector, prepared)
    if "inference" not in recordings:
        recordings["inference"] = record_inference(detector, prepared)

    outputs: dict[str, Array] = {}
    final = [value.name for value in model.graph.output]

    def keep_output(name: str, array: Array) -> None:
        if name in final:
            outputs[name] = array.astype(bool) if name == "masks" else array

    prints = record_graph(model, feeds([prepared]), on_tensor=keep_output)
    graph = _Graph(model, prints)
    real = outputs["dets"][0][:, 4] > 0 if drop_padding else slice(None)
    results = [fingerprint(outputs[name][0][real]) for name in final]
    findings: dict[str, Finding | None] = {}
    agreeing = {}
    for name, recording in recordings.items():
        counterparts = graph.counterparts(recording)
        agreeing[name] = len(counterparts)
        # The traced code returns padding too.
        own = [prints[output] for output in final] if name == "traced code" else results
        findings[name] = graph.finding(name, recording, counterparts, dict(zip(final, own, strict=True)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return SearchReport(
        compared=len(prints),
        agreeing=agreeing,
        found=_first(findings["traced code"], findings["inference"]),
        seconds=time.perf_counter() - start,
        peak_mb=peak,
        findings=findings,
        recordings=recordings,
    )


def _first(traced: Finding | None, inference: Finding | None) -> Finding | None:
    """The finding to report. Against inference the region may be wide, for mmdet's export code computes some things in
    another way; if it holds what the traced code's finding names, that one is exact."""
    if traced is None or inference is None:
        return traced or inference
    explains = traced.node in inference.region or traced.position <= inference.position
    return traced if explains else inference


def _check_same_model(detector: BaseDetector, model: onnx.ModelProto) -> None:
    names = {name for name, _ in detector.named_modules() if name}
    scopes = {origin(node).scope for node in model.graph.node} - {""}
    if not scopes or not scopes <= names:
        raise ForeignGraphError(
            "the graph's nodes do not come from this detector's modules",
            "export this detector with helpers.export.exporter",
        )
    weights = {tuple(parameter.shape) for parameter in detector.parameters()}
    kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    if any(shapes.get(name) not in weights for name in kernels):
        raise ForeignGraphError(
            "the graph's convolutions are not those of this detector",
            "export this detector with helpers.export.exporter",
        )


class _Graph:
    """A graph with the fingerprints of its tensors, ready to be walked."""

    def __init__(self, model: onnx.ModelProto, prints: dict[str, Fingerprint]) -> None:
        self.prints = prints
        self.fixed = constants(model)
        self.nodes = [node for node in model.graph.node if not set(node.output) <= self.fixed]
        self.position = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self.outputs = [value.name for value in model.graph.output]
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    def counterparts(self, recording: Recording) -> dict[str, Record]:
        """The tensors of the graph that agree, each with the closest tensor of the reference."""
        of_size: dict[int, list[Record]] = defaultdict(list)
        for record in recording.records:
            of_size[record.print.size].append(record)
        found = {}
        for name, print_ in self.prints.items():
            closest = min(((distance(print_, r.print), r.index) for r in of_size[print_.size]), default=(np.inf, -1))
            if closest[0] <= TOLERANCE:
                found[name] = recording.records[closest[1]]
        for name in self.prints.keys() - found.keys():
            closest_shorter = self._closest(name, self._shorter(name, recording.records))
            if closest_shorter and self._distance(name, closest_shorter) <= TOLERANCE:
                found[name] = closest_shorter
        return found

    def _shorter(self, name: str, records: Iterable[Record]) -> list[Record]:
        """The inputs of modules that the tensor may hold, filled up with rows of zeros to a fixed length."""
        print_ = self.prints[name]
        if print_.ordered is None:
            return []
        zeros = int(np.count_nonzero(print_.ordered == 0))
        entering = (r for r in records if r.operator == "input" and r.print.size > 1)
        return [r for r in entering if 0 < print_.size - r.print.size <= zeros]

    def _closest(self, name: str, records: list[Record]) -> Record | None:
        return min(records, key=lambda record: self._distance(name, record), default=None)

    def _distance(self, name: str, record: Record) -> float:
        print_ = self.prints[name]
        return distance(without_padding(print_, record.print.size) or print_, record.print)

    def finding(
        self,
        reference: str,
        recording: Recording,
        agrees: dict[str, Record],
        results: dict[str, Fingerprint],
    ) -> Finding | None:
        symptom = self._symptom(recording, agrees, results)
        if symptom is None:
            return None
        name, expected = symptom
        region = self._region(name, agrees, results)
        settled: set[str] = set()
        culprits = []
        for i in sorted(region):
            node = self.nodes[i]
            moving = [n for n in node.input if n not in self.fixed]
            if all(n not in self.position or n in agrees or n in settled for n in moving):
                data = node.input if node.op_type == "Concat" else node.input[:1]
                if node.op_type in _MOVES_DATA and not set(data) & self.fixed and name not in node.output:
                    settled.update(node.output)
                else:
                    culprits.append(i)
        first, *others = culprits
        node = self.nodes[first]
        return Finding(
            reference=reference,
            node=node.name,
            operator=node.op_type,
            where=origin(node),
            inputs=tuple(n for n in node.input if n not in self.fixed),
            outputs=tuple(node.output),
            symptom=name,
            expected=expected,
            region=tuple(self.nodes[i].name for i in sorted(region)),
            others=tuple(self.nodes[i].name for i in others),
            position=first,
        )

    def _symptom(
        self, recording: Recording, agrees: dict[str, Record], results: dict[str, Fingerprint]
    ) -> tuple[str, Record | None] | None:
        """The first tensor that should agree and does not, with what it should have been."""
        borders: dict[str, list[Record]] = defaultdict(list)
        for name, records in self._borders(recording):
            borders[name] += records
        for name in sorted(borders.keys() - agrees.keys(), key=self.position.__getitem__):
            same_size = [r for r in borders[name] if r.print.size == self.prints[name].size]
            expected = self._closest(name, same_size) or self._closest(name, self._shorter(name, borders[name]))
            if expected:
                return self._earlier_output((name, expected), recording, results)
        return self._earlier_output(None, recording, results)

    def _earlier_output(
        self, so_far: tuple[str, Record] | None, recording: Recording, results: dict[str, Fingerprint]
    ) -> tuple[str, Record | None] | None:
        candidates: list[tuple[str, Record | None]] = [so_far] if so_far else []
        for (name, print_), record in zip(results.items(), recording.results(), strict=True):
            if distance(print_, record.print) > TOLERANCE:
                candidates.append((name, record))
        return min(candidates, key=lambda c: self.position[c[0]], default=None)

    def _borders(self, recording: Recording) -> Iterable[tuple[str, list[Record]]]:
        """Tensors that enter or leave a module, with what the reference saw enter or leave it."""
        by_scope: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in recording.records:
            if record.operator in ("input", "output"):
                by_scope[record.scope, record.operator].append(record)
        inside: dict[str, set[int]] = defaultdict(set)
        for i, node in enumerate(self.nodes):
            parts = origin(node).scope.split(".")
            for depth in range(1, len(parts) + 1):
                inside[".".join(parts[:depth])].add(i)
        for scope, members in inside.items():
            if not scope:
                continue
            made = {name for i in members for name in self.nodes[i].output}
            read = {name for i in members for name in self.nodes[i].input}
            for name in read - made - self.fixed:
                if name in self.position and (records := by_scope[scope, "input"]):
                    yield name, records
            for name in self._leaving(members):
                if records := by_scope[scope, "output"]:
                    yield name, records
        by_line: dict[str, list[Record]] = defaultdict(list)
        for record in recording.records:
            by_line[record.line].append(record)
        on_line: dict[str, set[int]] = defaultdict(set)
        for i, node in enumerate(self.nodes):
            if lines := origin(node).lines:
                on_line[lines[0]].add(i)
        for line, members in on_line.items():
            if by_line[line]:
                for name in self._leaving(members):
                    # Which of several equal rows an index points to is free; what is gathered with it counts.
                    if not self.prints[name].integral:
                        yield name, by_line[line]

    def _leaving(self, members: set[int]) -> Iterable[str]:
        """The tensors that some of these nodes make and other nodes read."""
        for i in members:
            for name in self.nodes[i].output:
                readers = {self.position[node.output[0]] for node in self.readers[name]}
                if readers - members or name in self.outputs:
                    yield name

    def _region(self, symptom: str, agrees: dict[str, Record], results: dict[str, Fingerprint]) -> set[int]:
        region: set[int] = set()
        stack = [symptom]
        while stack:
            name = stack.pop()
            if name not in self.position or (name in agrees and name != symptom):
                continue
            if self.position[name] not in region:
                region.add(self.position[name])
                stack += self.nodes[self.position[name]].input
        return region


def difference_figure(
    report: SearchReport,
    detector: BaseDetector,
    model: onnx.ModelProto,
    prepared: NetworkInput,
    picture: npt.NDArray[np.uint8],
) -> Figure:
    """Where in the picture the finding's symptom differs from what the reference run has in its place.

    Boxes are drawn where only one side has them; feature maps as a heat map of the mean difference over channels;
    anything else as the two bags of numbers. ``picture`` is the (H, W, 3) BGR picture that ``prepared`` was made from.

    Raises:
        NoDisagreementError: there is no finding.
    """
    found = report.culprit()
    graph_side = run_graph(model, feeds([prepared]), [found.symptom])[found.symptom]
    expected = _expected_array(found, detector, model, prepared)
    figure, axis = plt.subplots(figsize=(11, 6.6), layout="constrained")
    axis.set_title(f"{found.symptom}: the graph against {found.reference}")
    if expected is not None and graph_side.ndim >= 2 and graph_side.shape[-1] in (4, 5) and graph_side.size >= 8:
        _draw_boxes(axis, picture, _boxes(expected), _boxes(graph_side))
    elif (
        expected is not None
        and expected.size
        and expected.shape == graph_side.shape
        and graph_side.ndim == 4
        and len(graph_side) == 1
    ):
        heat = np.abs(expected - graph_side)[0].mean(axis=0)
        axis.imshow(picture[..., ::-1])
        size = picture.shape[1::-1]
        image = axis.imshow(cv2.resize(heat, size, interpolation=cv2.INTER_NEAREST), cmap="inferno", alpha=0.7)
        figure.colorbar(image, ax=axis, label="mean absolute difference over channels")
        axis.set_axis_off()
    else:
        for array, name in ((expected, found.reference), (graph_side, "the graph")):
            if array is not None:
                values = np.sort(array.astype(float).ravel())
                axis.plot(np.linspace(0, 1, len(values)), values, label=name)
        axis.set_xlabel("share of the values")
        axis.set_ylabel("value")
        axis.legend()
    return figure


def _expected_array(
    found: Finding, detector: BaseDetector, model: onnx.ModelProto, prepared: NetworkInput
) -> Array | None:
    if found.expected is None:
        return None
    wanted = found.expected.key
    if found.reference == "traced code":
        with patches.applied(*exported_with(model)):
            return record_traced_code(detector, prepared, keep=[wanted]).kept[wanted]
    return record_inference(detector, prepared, keep=[wanted]).kept[wanted]


def _boxes(array: Array) -> Array:
    """(N, 4) boxes of an (..., 4) array of boxes, (..., 5) of RoIs (index first) or of detections (score last)."""
    rows = array.reshape(-1, array.shape[-1]).astype(np.float32)
    if rows.shape[1] == 4:
        return rows
    is_roi = bool((rows[:, 0] == np.round(rows[:, 0])).all()) and float(rows[:, 4].max(initial=0)) > 1
    return rows[:, 1:] if is_roi else rows[:, :4]


def _draw_boxes(axis: Axes, picture: npt.NDArray[np.uint8], expected: Array, got: Array) -> None:
    # Rounded to a tenth of a pixel: coarser than any rounding error here, finer than any two neighbouring boxes.
    keys = [{tuple(row) for row in np.round(boxes, 1)} for boxes in (expected, got)]
    axis.imshow(picture[..., ::-1], alpha=0.6)
    sides = ((keys[0] - keys[1], "#1f77b4", "only PyTorch"), (keys[1] - keys[0], "#ff7f0e", "only the graph"))
    for rows, colour, name in sides:
        lines = [[(a, b), (c, b), (c, d), (a, d), (a, b)] for a, b, c, d in rows]
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, label=f"{name}: {len(rows)} boxes"))
    axis.plot([], [], " ", label=f"both: {len(keys[0] & keys[1])} boxes (not drawn)")
    axis.legend(loc="lower right")
    axis.set_axis_off()
