"""The first node at which an exported graph stops computing what PyTorch computes, found without being told where.

Three runs of one input are compared, tensor by tensor:

- *inference*: PyTorch, as the detector is used;
- *traced code*: PyTorch again, eagerly, but through the Python code that the exporter traced;
- the *graph*, in ONNX Runtime, with every inner tensor exposed.

Traced code against graph tells whether exporter and runtime did their work; inference against graph also tells whether
the traced code is the right code. In both comparisons the search does the same:

1. A tensor of the graph *agrees* if the reference run has, anywhere, a tensor with the same numbers in the same order,
   in whatever shape (:mod:`helpers.compare.fingerprints`). After a TopK, which two runtimes do not sort alike where
   scores are almost equal, rows may have changed places with their neighbours; after the last one only the rows of
   detections count, not those that fill the output up. A tensor of one pyramid level, sorted or not, agrees with
   its part of a tensor of all levels: inference decodes them at once. Numbers that are moved, chosen, added or
   multiplied have to be those that the node's own line of Python makes in this way, where these are known (traced code
   only), and in their order where the line makes as many as there are nodes of it: x1 instead of y1, or the whole
   instead of the half, are PyTorch's numbers too.
2. A tensor is *expected* to agree if it is an output of the graph, or crosses the border of a module, or (traced code
   only) of a line of Python, at which the reference recorded a tensor of that size; rows of zeros that fill up a list
   do not count. The first of these, in graph order, that does not agree is the *symptom*; so is the node at which the
   runtime stops. Other tensors need no counterpart: export code may compute the same in another way.
3. From the symptom, or from all outputs that are wrong if it is one of them, the search goes backwards, and stops
   wherever a tensor agrees. What it passes is the *region*. The *culprit* is the first node of the region all of whose
   inputs agree: right numbers go in, and what comes out leads to wrong ones. A node whose own line of Python made
   other numbers of that size comes before those that nothing is known about. A node that only moves its inputs about
   passes on their agreement, unless its own line tells what it has to be.

The comparison with inference decides whether anything is wrong, and in which region. Within that region the comparison
with the traced code, which has a counterpart for nearly every tensor, then names the node, unless all agrees there:
in that case it is the traced code that is not what inference does.
"""

from __future__ import annotations

import functools
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import onnx
from matplotlib.collections import LineCollection
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import patches
from helpers.compare.fingerprints import TOLERANCE, distance, fingerprint, is_run, same_rows
from helpers.compare.recording import (
    GraphRun,
    Record,
    Recording,
    record_graph,
    record_inference,
    record_traced_code,
    result_arrays,
)
from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput
from helpers.errors import CourseError
from helpers.graph.cut import run_graph
from helpers.graph.detect import detections, feeds
from helpers.graph.file import OUTPUT_NAMES, exported_with
from helpers.graph.index import GraphIndex
from helpers.graph.origins import Origin, origin
from helpers.graph.runner import RunnerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "Finding",
    "ForeignGraphError",
    "NoDisagreementError",
    "NoMasksError",
    "SearchReport",
    "difference_figure",
    "first_disagreement",
    "search",
]

Array = npt.NDArray[Any]
#: More boxes than these hide the picture.
DRAWN = 12
# Operators whose output holds numbers of their first input (all inputs, for Concat) and no others, with the ATen
# operators that they are exported from where they may change the order of numbers, or leave some out.
_SLICES = ("slice", "select", "split", "split_with_sizes", "unbind", "chunk")
_GATHERS = ("index", "select", "slice", "gather", "index_select")
_MOVES_DATA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"), ()),
    **{"Transpose": ("permute", "transpose", "t"), "Concat": ("cat", "stack")},
    **dict.fromkeys(("Slice", "Split"), _SLICES),
    **dict.fromkeys(("Gather", "GatherND"), _GATHERS),
    **dict.fromkeys(("Expand", "Tile"), ("expand", "repeat")),
}
# Of these, what only changes shape or type, and cannot be wrong about which numbers it takes, or in which order.
_RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"}
# What a line of Python makes in the same way, by an ATen operator or by its form that works in place. A TopK chooses,
# which is more than moving: it can be what is wrong. So can a factor of 1: its product is a tensor of PyTorch, too.
_ARITHMETIC = {"Add": ("add",), "Sub": ("sub", "rsub"), "Mul": ("mul",), "Div": ("div",)}
_MADE_BY = {**_MOVES_DATA, **_ARITHMETIC, "TopK": ("topk", "sort")}
# Operators after which the order of rows depends on the last digits of their scores.
_SORTS = {"TopK", "NonMaxSuppression"}
# Fewer rows than this could be the channels of some other tensor as well.
_FEW_ROWS = 32


class NoDisagreementError(CourseError):
    """The search was asked for its finding, and there is none: graph and PyTorch agree on this input."""


class ForeignGraphError(CourseError):
    """The graph was not exported from this detector, so there is nothing to compare."""


class NoMasksError(CourseError):
    """The search compares boxes, labels and masks, and the detector has no masks."""


@dataclass(frozen=True)
class Finding:
    """Where one comparison first goes wrong.

    reference: ``"inference"`` or ``"traced code"``. node, operator, where: the culprit. symptom: name of the first
    tensor that should agree and does not; expected: its counterpart in the reference, if there is one of that size.
    region: the nodes between the agreeing tensors and the symptom. others: further nodes of the region with agreeing
    inputs, in graph order. stopped: the runtime's error if the symptom is that it stopped, else empty.
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
    stopped: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}), made by {self.where}"


@dataclass(frozen=True)
class SearchReport:
    """What a search compared and found.

    compared: tensors of the graph that depend on its input. found: the finding, None if all that should agree with
    inference does. seconds: wall time. peak_mb: highest memory of this process so far. recordings: of both PyTorch
    runs, for further searches.
    """

    compared: int
    found: Finding | None
    seconds: float
    peak_mb: float
    recordings: dict[str, Recording] = field(repr=False)

    def culprit(self) -> Finding:
        """The finding. Raises :class:`NoDisagreementError` if there is none."""
        if self.found is None:
            raise NoDisagreementError(
                f"all of the {self.compared} tensors that should agree do", "try another picture, or be glad"
            )
        return self.found

    def __str__(self) -> str:
        records = " and ".join(f"{len(run.records)} of {name}" for name, run in self.recordings.items())
        head = f"{self.compared} tensors compared with {records} in {self.seconds:.0f} s ({self.peak_mb:.0f} MB)."
        if self.found is None:
            return f"{head}\nEverything that should agree does."
        found = self.found
        expected = f" (expected {found.expected})" if found.expected else ""
        expected += f": {found.stopped}" if found.stopped else ""
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
    drop_padding: bool = True,
    recordings: dict[str, Recording] | None = None,
) -> SearchReport:
    """Find the first node at which ``model`` stops computing what ``detector`` computes on one prepared picture.

    ``drop_padding`` compares the graph's outputs without the rows of score 0 that fill them up; with them, a picture of
    fewer objects than rows has a finding, for PyTorch returns no such rows. ``recordings`` are those of an earlier
    report on the same detector, input and patches: searching another version of the graph then takes only the run of
    the graph.

    Raises:
        NoMasksError: the detector has no mask head.
        ForeignGraphError: the graph belongs to another model.
        helpers.graph.runner.GraphInputError: the picture was not prepared for this graph.
    """
    if not detector.with_mask:
        raise NoMasksError("the search needs a model with masks", "compare the outputs with helpers.compare.parity")
    start = time.perf_counter()
    _check_same_model(detector, model)
    recordings = dict(recordings or {})
    if "traced code" not in recordings:
        with patches.applied(*exported_with(model)):
            recordings["traced code"] = record_traced_code(detector, prepared)
    if "inference" not in recordings:
        recordings["inference"] = record_inference(detector, prepared)

    index = GraphIndex(model)
    run = record_graph(index, feeds([prepared]))
    found = None if run.stopped_at else detections(run.outputs, [prepared], drop_padding=drop_padding)[0]
    graph = _Graph(index, run, real_rows=0 if found is None else int(np.count_nonzero(found.scores > 0)))
    inference = recordings["inference"]
    finding = graph.finding("inference", inference, wrong=_differing(found, inference))
    if finding:
        finding = graph.finding("traced code", recordings["traced code"], within=finding.region) or finding
    return SearchReport(
        compared=len(run.prints),
        found=finding,
        seconds=time.perf_counter() - start,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        recordings=recordings,
    )


def first_disagreement(model: onnx.ModelProto, arrays: dict[str, Array], recording: Recording) -> Finding | None:
    """The search on any graph and any recorded PyTorch run, as of :func:`helpers.compare.recording.record_module`: the
    recording's results are the graph's outputs, and a node's ``doc_string`` names the module that it comes from.
    ``arrays`` are the graph's inputs.

    Raises:
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape.
    """
    index = GraphIndex(model)
    graph = _Graph(index, record_graph(index, arrays))
    agrees = graph.agreement(recording)
    sides = zip(index.outputs, recording.results(), strict=True)
    wrong = {n: r for n, r in sides if n in graph.position and not agrees(n)}
    return graph.finding("PyTorch", recording, wrong=wrong)


def _differing(found: Detections | None, recording: Recording) -> dict[str, Record]:
    """The outputs of the graph that are not the recorded results, with these; none where the runtime stopped. mmdet
    groups detections by class, and almost equal scores are sorted either way: the recording's order is taken.
    """
    expected = recording.found
    if found is None or expected is None:
        return {}
    if len(found) == len(expected) > 0:
        # One class apart counts more than any distance in the picture.
        places = (np.column_stack([side.boxes, side.scores, side.labels * 1e4]) for side in (expected, found))
        apart = np.nan_to_num(cdist(*places, "cityblock"), nan=1e9, posinf=1e9)
        found = found[linear_sum_assignment(apart)[1]]
    sides = zip(OUTPUT_NAMES, result_arrays(found), recording.results(), strict=True)
    wrong = {name: record for name, array, record in sides if distance(fingerprint(array), record.print) > TOLERANCE}
    # Beside coordinates of a thousand pixels a score of 0.5 instead of 0.6 is no distance.
    if distance(fingerprint(found.scores), fingerprint(expected.scores)) > TOLERANCE:
        wrong[OUTPUT_NAMES[0]] = recording.results()[0]
    return wrong


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


def _number(node: onnx.NodeProto) -> list[list[int]]:
    """The place of a node among those of its operator and module, as the exporter names them, call by call: /head/Mul,
    /head/Mul_1, /head_1/Mul.
    """
    return [[int(number) for number in re.findall(r"_(\d+)", part)] for part in node.name.split("/")]


class _Graph:
    """A graph with the fingerprints of its tensors, ready to be walked. real_rows: how many of the rows that its last
    TopK chose are detections.
    """

    def __init__(self, index: GraphIndex, run: GraphRun, real_rows: int = 0) -> None:
        self.index = index
        self.run = run
        self.prints = run.prints
        self.real_rows = real_rows
        self.nodes = [node for node in index.nodes if not {name for name in node.output if name} <= index.fixed]
        self.position = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        sorting = [node for node in self.nodes if node.op_type in _SORTS]
        self.sorted = self._after(sorting)
        self.of_line: dict[tuple[str, str, str], list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            if where := origin(node).lines:
                self.of_line[node.op_type, origin(node).scope, where[0]].append(node)
        self.filled_up = self._after([node for node in sorting if node.op_type == "TopK"][-1:])

    def _after(self, nodes: Iterable[onnx.NodeProto]) -> set[str]:
        """The results of these nodes and of all that depend on them."""
        found = {name for node in nodes for name in node.output}
        for node in self.nodes:
            if found.intersection(self.index.reads(node)):
                found.update(node.output)
        return found

    def agreement(self, recording: Recording) -> Callable[[str], bool]:
        """Tells whether a tensor of the graph agrees with one of the recording; each is looked for once, when asked."""
        of_size: dict[int, list[Record]] = defaultdict(list)
        of_width: dict[int, list[Record]] = defaultdict(list)
        for record in recording.records:
            of_size[record.print.size].append(record)
            of_width[record.print.width].append(record)
        same_count = recording.found is not None and len(recording.found) == self.real_rows

        @functools.cache
        def agrees(name: str) -> bool:
            if name not in self.prints:
                return False
            # Not by calling itself: a function that holds itself holds this graph until the collector comes by.
            source = self._before(name, _RESHAPES - {"Cast"}, self.prints.__contains__)
            if own := self._from_its_line(source, recording):
                name = source
            print_ = self.prints[name]
            # What moves numbers makes others of PyTorch's tensors where it is wrong: its own line has to have made it.
            same_size = own or of_size[print_.size]
            real = self.real_rows if same_count and name in self.filled_up else None
            return (
                any(distance(print_, record.print) <= TOLERANCE for record in same_size)
                or any(self._same_rows(name, record, real) for record in same_size)
                or (not own and self._is_part_or_filled_up(name, of_width[print_.width]))
            )

        return agrees

    def _same_rows(self, name: str, record: Record, real: int | None) -> bool:
        print_ = self.prints[name]
        pairs = [(a, b) for a, b in zip(print_.rows, record.print.rows, strict=False) if len(a) == len(b)]
        if real is not None and pairs and same_rows(*(rows[:real] for rows in pairs[0])):
            return True
        if name not in self.sorted or print_.bad != record.print.bad:
            return False
        # Rows of the first axis are proposals, of which many may have one score; of the last axis, mostly channels.
        return any(len(a) >= _FEW_ROWS and same_rows(a, b, nearby=i > 0) for i, (a, b) in enumerate(pairs))

    def _is_part_or_filled_up(self, name: str, records: list[Record]) -> bool:
        """Whether the tensor is a part of one of these, or one of them but for rows of zeros; all have its width."""
        print_ = self.prints[name]
        if not print_.rows:
            return False
        rows = print_.rows[0]
        shorter = (record.print.rows[0] for record in records if self._fills_up(name, record))
        if any(same_rows(rows[rows != 0], other[other != 0]) for other in shorter):
            return True
        # A list of few different rows, as a mask's, is like a part of many a tensor.
        if print_.integral or len(rows) < _FEW_ROWS or len(np.unique(rows)) < _FEW_ROWS:
            return False
        return any(is_run(rows, r.print.rows[0]) for r in records if len(r.print.rows[0]) > len(rows))

    def _fills_up(self, name: str, record: Record) -> bool:
        """Whether the tensor may be the input of a module, filled up with rows of zeros to a fixed length."""
        print_ = self.prints[name]
        if record.operator != "input" or not print_.width or print_.width != record.print.width:
            return False
        surplus = len(print_.rows[0]) - len(record.print.rows[0])
        return bool(0 < surplus <= np.count_nonzero(print_.rows[0] == 0))

    def finding(
        self,
        reference: str,
        recording: Recording,
        *,
        wrong: dict[str, Record] | None = None,
        within: Collection[str] | None = None,
    ) -> Finding | None:
        """wrong: outputs of the graph that are not what they should be. within: the nodes that the finding is among, or
        among those before them that move, choose, add or multiply numbers; None, too, if what these read does not
        agree.
        """
        agrees = self.agreement(recording)
        allowed = {i for i, node in enumerate(self.nodes) if within is None or node.name in within}
        read = [name for i in allowed for name in self.index.reads(self.nodes[i])]
        while read:
            name = read.pop()
            at = self.position.get(name)
            if at is not None and at not in allowed and not agrees(name):
                if self.nodes[at].op_type not in _MADE_BY:
                    return None
                allowed.add(at)
                read += self.index.reads(self.nodes[at])
        symptom = self._symptom(recording, agrees, wrong or {}, allowed)
        if symptom is None:
            return None
        name, expected = symptom
        # Where nothing before the outputs tells what is wrong, all wrong outputs are looked behind.
        behind = set(wrong) if wrong and name in wrong else {name}
        stop = self.index.producer[name] if name == self.run.stopped_at else None
        misshapen = {n for n in self.index.reads(stop) if self._misshapen(n, recording, agrees)} if stop else set()
        behind |= misshapen
        allowed |= {self.position[n] for n in misshapen}
        region = set().union(*(self._region(one, agrees) for one in behind)) & allowed

        # Where wrong numbers were only reshaped since, who chose them is to blame.
        def wrong_inside(one: str) -> bool:
            return self.position.get(one) in region and not agrees(one)

        blamed = {self._before(n, _RESHAPES, wrong_inside) for n in misshapen | {name}}
        settled: set[str] = set()
        culprits = []
        for i in sorted(region):
            node = self.nodes[i]
            if all(self.position.get(n) not in region or n in settled or agrees(n) for n in self.index.reads(node)):
                data = node.input if node.op_type == "Concat" else node.input[:1]
                passes_on = node.op_type in _MOVES_DATA and not set(data) & self.index.fixed
                passes_on = passes_on and blamed.isdisjoint(node.output)
                if passes_on and not self._from_its_line(node.output[0], recording):
                    settled.update(node.output)
                else:
                    culprits.append(i)
        # A node whose own line made this tensor, with other numbers, is known to be wrong. So is one that made what the
        # runtime stops at. Of others, the first may be.
        suspects = blamed if stop else set()

        def innocence(i: int) -> tuple[bool, bool, int]:
            known = self._known_wrong(self.nodes[i], recording, agrees)
            return not known, suspects.isdisjoint(self.nodes[i].output), i

        first, *others = sorted(culprits, key=innocence)
        node = self.nodes[first]
        return Finding(
            reference=reference,
            node=node.name,
            operator=node.op_type,
            where=origin(node),
            inputs=tuple(n for n in node.input if n and n not in self.index.fixed),
            outputs=tuple(node.output),
            symptom=name,
            expected=expected,
            region=tuple(self.nodes[i].name for i in sorted(region)),
            others=tuple(self.nodes[i].name for i in others),
            stopped=self.run.reason if name == self.run.stopped_at else "",
        )

    def _from_its_line(self, name: str, recording: Recording) -> list[Record]:
        """For moved, chosen or combined numbers: the tensors of their size that their line of Python makes by that
        operator. Where the line makes as many as it has nodes in the graph, their order tells which of them it is;
        equal ones may be one node.
        """
        node = self.index.producer[name]
        if not origin(node).lines or name not in self.prints or node.op_type not in _MADE_BY:
            return []
        scope, line = origin(node).scope, origin(node).lines[0]
        size, by = self.prints[name].size, _MADE_BY[node.op_type]
        made = [r for r in recording.of_line.get(line, ()) if r.operator.removesuffix("_") in by]
        made = [record for record in made if record.print.size == size]
        alike = self.of_line[node.op_type, scope, line]
        alike = [one for one in alike if one.output[0] in self.prints and self.prints[one.output[0]].size == size]
        here = [record for record in made if record.scope == scope]
        for candidates in (here, list({record.print.sums: record for record in here}.values())):
            if len(node.output) == 1 and len(alike) == len(candidates):
                return [candidates[sorted(alike, key=_number).index(node)]]
        # Of more nodes than the line made here, some come from another operator, or from a view that is not recorded.
        return made if len(alike) <= len(here) else []

    def _before(self, name: str, reshapes: Collection[str], goes_on: Callable[[str], bool]) -> str:
        """The first of the tensors that only these operators lie between, as far back as each ``goes_on``."""
        node = self.index.producer.get(name)
        while node is not None and node.op_type in reshapes and goes_on(node.input[0]):
            name = node.input[0]
            node = self.index.producer.get(name)
        return name

    def _misshapen(self, name: str, recording: Recording, agrees: Callable[[str], bool]) -> bool:
        """Whether a tensor at which the runtime stops may be what it stops at: one that was moved about, and is not one
        of the reference's, or has another shape than its line of Python made.
        """
        node = self.index.producer.get(name)
        if node is None or node.op_type not in _MOVES_DATA or name not in self.prints:
            return False
        made = self._from_its_line(name, recording)
        return not agrees(name) or bool(made and self.run.shapes[name] not in [record.shape for record in made])

    def _known_wrong(self, node: onnx.NodeProto, recording: Recording, agrees: Callable[[str], bool]) -> bool:
        """Whether the node's line of Python made tensors of the size of a result, and the result is none of them."""
        lines, made = origin(node).lines, [name for name in node.output if name in self.prints]
        sizes = {record.print.size for record in recording.records if lines and record.line == lines[0]}
        return any(self.prints[name].size in sizes and not agrees(name) for name in made)

    def _symptom(
        self, recording: Recording, agrees: Callable[[str], bool], wrong: dict[str, Record], allowed: set[int]
    ) -> tuple[str, Record | None] | None:
        """The first tensor that should agree and does not, with what it should have been."""
        borders: dict[str, list[Record]] = defaultdict(list)
        for name, records in self._borders(recording):
            borders[name] += records
        names = (borders.keys() & self.prints.keys()) | wrong.keys() | ({self.run.stopped_at} - {""})
        for name in sorted((n for n in names if self.position[n] in allowed), key=self.position.__getitem__):
            if name == self.run.stopped_at or name in wrong:
                return name, wrong.get(name)
            print_ = self.prints[name]
            same_size = [record for record in borders[name] if record.print.size == print_.size]
            shorter = [record for record in borders[name] if self._fills_up(name, record)]
            if (same_size or shorter) and not agrees(name):
                return name, min(same_size or shorter, key=lambda record: distance(print_, record.print))
        return None

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
            read = {name for i in members for name in self.index.reads(self.nodes[i])}
            for name in read - made:
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
                    if name in self.prints and not self.prints[name].integral:
                        yield name, by_line[line]

    def _leaving(self, members: set[int]) -> Iterable[str]:
        """The tensors that some of these nodes make and other nodes read."""
        for i in members:
            for name in self.nodes[i].output:
                readers = {self.position[node.output[0]] for node in self.index.readers(name)}
                if readers - members or name in self.index.outputs:
                    yield name

    def _settles(self, name: str, agrees: Callable[[str], bool]) -> bool:
        """Whether the search need not look behind a tensor: it agrees, and not because all its numbers are alike."""
        return agrees(name) and not self.prints[name].alike

    def _region(self, symptom: str, agrees: Callable[[str], bool]) -> set[int]:
        region: set[int] = set()
        stack = [symptom]
        while stack:
            name = stack.pop()
            at = self.position.get(name)
            if at is not None and at not in region and (name == symptom or not self._settles(name, agrees)):
                region.add(at)
                stack += self.index.reads(self.nodes[at])
        return region


def difference_figure(
    report: SearchReport,
    detector: BaseDetector,
    model: onnx.ModelProto,
    prepared: NetworkInput,
    picture: npt.NDArray[np.uint8],
) -> Figure:
    """Where in the picture the finding's symptom differs from what the reference run has in its place.

    Boxes are drawn where only one side has them, the first :data:`DRAWN` in the tensor's order; feature maps as a heat
    map of the mean difference over channels; anything else as the two bags of numbers. ``picture`` is the (H, W, 3)
    BGR picture that ``prepared`` was made from.

    Raises:
        NoDisagreementError: there is no finding.
    """
    found = report.culprit()
    try:
        graph_side = run_graph(model, feeds([prepared]), [found.symptom])[found.symptom]
    except RunnerError:  # The symptom is that the runtime stops.
        graph_side = np.zeros(0)
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
    """(N, 4) boxes of an (..., 4) array of boxes, (..., 5) of RoIs (index first) or of detections (score last; those of
    score 0 are none)."""
    rows = array.reshape(-1, array.shape[-1]).astype(np.float32)
    if rows.shape[1] == 4:
        return rows
    is_roi = bool((rows[:, 0] == np.round(rows[:, 0])).all()) and float(rows[:, 4].max(initial=0)) > 1
    return rows[:, 1:] if is_roi else rows[rows[:, 4] > 0, :4]


def _draw_boxes(axis: Axes, picture: npt.NDArray[np.uint8], expected: Array, got: Array) -> None:
    # Rounded to a tenth of a pixel: coarser than any rounding error here, finer than any two neighbouring boxes.
    first, second = (dict.fromkeys(map(tuple, np.round(boxes, 1))) for boxes in (expected, got))
    axis.imshow(picture[..., ::-1], alpha=0.5)
    for found, other, colour, name in (
        (first, second, "#1f77b4", "only PyTorch"),
        (second, first, "#cf222e", "only the graph"),
    ):
        rows = [row for row in found if row not in other]
        lines = [[(a, b), (c, b), (c, d), (a, d), (a, b)] for a, b, c, d in rows[:DRAWN]]
        few = f", the first {DRAWN} drawn" if len(rows) > DRAWN else ""
        label = f"{name}: {len(rows)} boxes{few}"
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=1.6, label=label))
    axis.plot([], [], " ", label=f"both: {len(first.keys() & second.keys())} boxes (not drawn)")
    axis.legend(loc="lower right")
    axis.set_axis_off()
