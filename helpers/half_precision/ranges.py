"""Which of a graph's floating-point numbers fit half precision: the range of every tensor, from runs in FP32.

Half precision (IEEE 754 binary16) ends at 65,504; its normal numbers start at 2^-14, its subnormal ones, with fewer and
fewer digits, at 2^-24. What is larger becomes inf, what is below half of the smallest becomes 0.

Ranges are a first look and no proof: they tell which results of an exact run do not fit, and nothing about what
rounding does to the nodes after them. :mod:`helpers.half_precision.simulation` computes that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from matplotlib.collections import LineCollection
from onnx import numpy_helper

from helpers.errors import CourseError
from helpers.graph.cut import extract, run_part, visit_tensors
from helpers.graph.index import GraphIndex
from helpers.graph.origins import Origin, origin
from helpers.half_precision.rules import LARGEST, SMALLEST_NORMAL, SMALLEST_SUBNORMAL
from helpers.half_precision.simulation import require_no_bodies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "LARGEST",
    "SMALLEST_NORMAL",
    "SMALLEST_SUBNORMAL",
    "RangeError",
    "RangeReport",
    "TensorRange",
    "draw_ranges",
    "measure",
    "range_report",
    "table",
]

Array = npt.NDArray[Any]
# Elements looked at in one go: half a megabyte stays in the processor's cache between the steps.
_BLOCK = 1 << 17
# Of the drawing, in points: the size of its names, about the width of one letter, and the height of a line.
_FONT, _LETTER, _LINE = 8, 5.0, 14


class RangeError(CourseError):
    """There is nothing to report ranges of: no pictures, no float tensors, or results without a name."""


@dataclass(frozen=True)
class TensorRange:
    """The numbers of one float tensor over all pictures.

    tensor: its name. node, operator: what makes it; for an input or an initializer the operator is ``"input"`` or
    ``"initializer"`` and the node the first that reads it. where: that node's origin. constant: it does not depend on
    the input. elements: how many numbers were seen (of a constant: once). minimum, maximum: of the finite ones, NaN if
    there is none. smallest: the smallest magnitude other than 0 of the finite ones, NaN if there is none. overflowing:
    finite numbers beyond 65,504 in magnitude. flushed: those other than 0 that become 0 in half precision. non_finite:
    inf and NaN.
    """

    tensor: str
    node: str
    operator: str
    where: Origin
    constant: bool
    elements: int
    minimum: float
    maximum: float
    smallest: float
    overflowing: int
    flushed: int
    non_finite: int

    @property
    def largest(self) -> float:
        """The largest finite magnitude, NaN if there is none."""
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def headroom(self) -> float:
        """How many times larger the numbers could grow before the largest passes 65,504; below 1 it has."""
        return _ratio(LARGEST, self.largest)

    @property
    def normal_headroom(self) -> float:
        """How many times smaller the smallest could be and still be a normal number; below 1 it loses digits."""
        return _ratio(self.smallest, SMALLEST_NORMAL)

    @property
    def subnormal_headroom(self) -> float:
        """How many times smaller the smallest could be and still be a subnormal number; up to 1/2 it becomes 0."""
        return _ratio(self.smallest, SMALLEST_SUBNORMAL)

    @property
    def overflow_share(self) -> float:
        """The share of all elements that is finite and beyond 65,504."""
        return self.overflowing / max(self.elements, 1)

    @property
    def flush_share(self) -> float:
        """The share of all elements that is not 0 and becomes 0 in half precision."""
        return self.flushed / max(self.elements, 1)

    def merged(self, other: TensorRange) -> TensorRange:
        """The range of both: of the same tensor on another picture."""
        return replace(
            self,
            elements=self.elements + other.elements,
            # fmin and fmax pass over the NaN of a tensor without finite numbers.
            minimum=float(np.fmin(self.minimum, other.minimum)),
            maximum=float(np.fmax(self.maximum, other.maximum)),
            smallest=float(np.fmin(self.smallest, other.smallest)),
            overflowing=self.overflowing + other.overflowing,
            flushed=self.flushed + other.flushed,
            non_finite=self.non_finite + other.non_finite,
        )

    def __str__(self) -> str:
        kind = f"{self.operator} {self.tensor}" if self.operator in ("input", "initializer") else self.tensor
        where = replace(self.where, lines=self.where.lines[:1])
        return f"{kind}: {self.minimum:.4g} to {self.maximum:.4g}, headroom {self.headroom:.3g}, {where}"


def _ratio(number: float, by: float) -> float:
    return math.inf if by == 0 else number / by


@dataclass(frozen=True)
class RangeReport:
    """The ranges in graph order of the inputs, of every weight that a node reads and of everything that a node makes.

    A constant, a weight or what nodes make without the inputs, stands before the first node that reads it.
    pictures: over how many pictures the ranges were taken.
    """

    rows: tuple[TensorRange, ...]
    pictures: int

    def worst(
        self, count: int | None = None, *, by: Literal["overflow", "underflow"] = "overflow"
    ) -> list[TensorRange]:
        """The rows by danger, the worst first, equal ones in graph order; ``count`` of them, all by default.

        ``"overflow"``: by the headroom to 65,504, of which a tensor with inf or NaN has none: so the first of those in
        the graph, where they begin, is the worst of all. ``"underflow"``: by the share of elements that become 0, then
        by the smallest magnitude.
        """
        rows = list(self.rows)
        if by == "overflow":
            rows.sort(key=lambda row: 0 if row.non_finite else _last_if_nan(row.headroom))
        else:
            rows.sort(key=lambda row: (-row.flush_share, _last_if_nan(row.smallest)))
        return rows[:count]

    def overflowing(self) -> list[TensorRange]:
        """The tensors, in graph order, of which some finite number is beyond 65,504."""
        return [row for row in self.rows if row.overflowing]

    def __getitem__(self, tensor: str) -> TensorRange:
        """The row of a tensor by name. Raises :class:`RangeError` if there is none."""
        for row in self.rows:
            if row.tensor == tensor:
                return row
        raise RangeError(f"the report has no float tensor {tensor!r}", "take the name from a row of the report")

    def __str__(self) -> str:
        count = len(self.overflowing())
        bad = sum(row.non_finite > 0 for row in self.rows)
        flushed = sum(row.flushed > 0 for row in self.rows)
        head = f"{len(self.rows)} float tensors over {self.pictures} picture{'s' if self.pictures != 1 else ''}: "
        head += f"{count} pass 65,504, {flushed} hold numbers that become 0, {bad} are not finite in FP32 already"
        return "\n".join([head, *(f"  {row}" for row in self.worst(10))])


def _last_if_nan(number: float) -> float:
    return math.inf if math.isnan(number) else number


def table(rows: Iterable[TensorRange]) -> dict[str, list[Any]]:
    """Rows as columns, for ``pandas.DataFrame`` or any other table."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        cells = {
            "tensor": row.tensor,
            "operator": row.operator,
            "minimum": row.minimum,
            "maximum": row.maximum,
            "headroom to 65,504": row.headroom,
            "smallest": row.smallest,
            "share above 65,504": row.overflow_share,
            "share that becomes 0": row.flush_share,
            "not finite": row.non_finite,
            "made by": str(row.where),
        }
        for key, value in cells.items():
            columns.setdefault(key, []).append(value)
    return columns


def measure(array: Array) -> dict[str, Any]:
    """The numbers of an array of any shape and float type, as the fields of :class:`TensorRange` from ``elements`` on.

    Computed in blocks, so that an array of gigabytes takes little memory beside it.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    integer = np.dtype(f"u{flat.dtype.itemsize}").type
    magnitude_bits = integer(np.iinfo(integer).max >> 1)
    low, high, smallest = math.inf, -math.inf, math.inf
    overflowing = flushed = non_finite = 0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        least, most = float(block.min()), float(block.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            finite = block[np.isfinite(block)]
            non_finite += block.size - finite.size
            if not finite.size:
                continue
            block = finite
            least, most = float(block.min()), float(block.max())
        low, high = min(low, least), max(high, most)
        if max(-least, most) > LARGEST:
            overflowing += int(np.count_nonzero(np.abs(block) > LARGEST))
        # The bits of floats without their sign, read as integers, are in the order of the magnitudes; less 1, a zero
        # becomes the largest integer. So one minimum finds the smallest number other than 0, without a copy of those.
        bits = (block.view(integer) & magnitude_bits) - integer(1)
        tiniest = bits.min()
        if tiniest < magnitude_bits:
            number = float((tiniest + integer(1)).view(flat.dtype))
            smallest = min(smallest, number)
            # A tie, half of the smallest subnormal, is rounded to the even neighbour: 0.
            if number <= SMALLEST_SUBNORMAL / 2:
                magnitude = np.abs(block)
                flushed += int(np.count_nonzero((magnitude > 0) & (magnitude <= SMALLEST_SUBNORMAL / 2)))
    return {
        "elements": flat.size,
        "minimum": low if low <= high else math.nan,
        "maximum": high if low <= high else math.nan,
        "smallest": smallest if math.isfinite(smallest) else math.nan,
        "overflowing": overflowing,
        "flushed": flushed,
        "non_finite": non_finite,
    }


def range_report(model: onnx.ModelProto | GraphIndex, pictures: Iterable[Mapping[str, Array]]) -> RangeReport:
    """Run a graph once for each picture in ONNX Runtime and take the range of every float tensor.

    Each of ``pictures`` holds the graph's inputs by name; a dynamic graph may be given other shapes each time. Any
    ONNX graph of tensors will do; nodes of :func:`helpers.export.exporter.export_onnx` also tell where they come from.
    Memory: see :func:`helpers.graph.cut.visit_tensors`.

    Raises:
        RangeError: no pictures, no float tensors, or a node whose results have no names.
        helpers.half_precision.simulation.HalfPrecisionError: an If, Loop or Scan computes with float32 inside.
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape.
        helpers.graph.runner.RunnerError: ONNX Runtime refuses the graph, or stops in it.
    """
    index = GraphIndex.of(model)
    for position, node in enumerate(index.nodes):
        if not any(node.output):
            raise RangeError(
                f"the result of node {position} ({node.name or node.op_type}) has no name",
                "export the graph with named tensors",
            )
    require_no_bodies(index)
    fixed = index.fixed
    rows: dict[str, TensorRange] = {}

    def add(name: str, array: Array) -> None:
        if not np.issubdtype(array.dtype, np.floating):
            return
        node = index.producer.get(name) or next(iter(index.readers(name)), onnx.NodeProto())
        operator = node.op_type if name in index.producer else "initializer" if name in fixed else "input"
        row = TensorRange(name, node.name, operator, origin(node), name in fixed, **measure(array))
        rows[name] = rows[name].merged(row) if name in rows else row

    count = 0
    for feeds in pictures:
        count += 1
        visit_tensors(index, feeds, add)
        for name in index.inputs:
            add(name, feeds[name])
    if not count:
        raise RangeError("there is no picture to run the graph on", "give at least one mapping of inputs")
    _add_constants(index, add)
    if not rows:
        raise RangeError("the graph has no float tensors", "give a graph that computes in floating point")
    return RangeReport(tuple(rows[name] for name in _graph_order(index) if name in rows), count)


def _add_constants(index: GraphIndex, add: Callable[[str, Array], None]) -> None:
    for name, tensor in index.initializers.items():
        if index.readers(name):
            add(name, numpy_helper.to_array(tensor))
    made = [name for name in index.producer if name in index.fixed]
    if made:
        for name, array in run_part(extract(index, made), {}).items():
            add(name, array)


def _graph_order(index: GraphIndex) -> list[str]:
    """Tensor names: the inputs, then the constants that each node reads and what it makes; each name once."""
    names = list(index.inputs)
    for node in index.nodes:
        names += [name for name in index.reads(node) if name in index.fixed]
        names += [name for name in node.output if name not in index.fixed or not index.readers(name)]
    return list(dict.fromkeys(names))


def draw_ranges(report: RangeReport, axis: Axes, *, labels: int = 4) -> None:
    """Draw each tensor's span of magnitudes, smallest other than 0 to largest, as a bar, in graph order.

    The vertical axis is logarithmic, with lines at half precision's limits. Bars that pass 65,504 are red and tensors
    that are not finite in FP32 carry a cross above; ``labels`` of the worst are named. Along the bottom stands the part
    of the network that the nodes belong to, where the graph tells. Give the axis its size first, some 10 x 5 inches:
    bars and names are laid out for it.
    """
    spans = [(i, row.smallest, row.largest, row) for i, row in enumerate(report.rows) if row.smallest == row.smallest]
    groups = (
        ("#4c72b0", "result", [s for s in spans if not s[3].constant and not s[3].overflowing]),
        ("#8c8c8c", "constant", [s for s in spans if s[3].constant and not s[3].overflowing]),
        ("#d62728", "passes 65,504", [s for s in spans if s[3].overflowing]),
    )
    width, height = _points(axis)
    bar = float(np.clip(0.8 * width / max(len(report.rows), 1), 0.8, 12))
    for order, (colour, name, members) in enumerate(groups):
        if not members:
            continue
        wide = bar * (1.8 if name == "passes 65,504" else 1)
        # A bar of one single number would have no length: the caps show it.
        lines = [[(i, low), (i, high)] for i, low, high, _ in members]
        bars = LineCollection(lines, colors=colour, linewidths=wide, capstyle="projecting", zorder=2 + order)
        axis.add_collection(bars)
        axis.plot([], [], color=colour, linewidth=4, label=f"{name} ({len(members)})")
    for limit, name, style in (
        (LARGEST, "65,504: largest", "-"),
        (SMALLEST_NORMAL, "6.1e-5: smallest normal", "--"),
        (SMALLEST_SUBNORMAL, "6.0e-8: smallest subnormal", ":"),
    ):
        axis.axhline(limit, color="black", linewidth=1, linestyle=style, label=name, zorder=1)
    low = min(min((s[1] for s in spans), default=math.inf), SMALLEST_SUBNORMAL) / 2
    high = max(max((s[2] for s in spans), default=0), LARGEST) * 2
    bad = [i for i, row in enumerate(report.rows) if row.non_finite]
    if bad:
        axis.plot(bad, [high * 4] * len(bad), "x", color="#d62728", label=f"not finite in FP32 ({len(bad)})")
        high *= 16
    axis.set_xlim(-1, len(report.rows))
    above, below = _name_worst(report, axis, labels), _name_parts(report.rows, axis)
    # The bars get the height that the names leave, of the smallest drawing still a fifth.
    decades = math.log10(high / low) / max(height - above - below, height / 5)
    axis.set_yscale("log")
    axis.set_ylim(low / 10 ** (below * decades), high * 10 ** (above * decades))
    axis.set_xlabel("float tensors in graph order")
    axis.set_ylabel("magnitude, smallest other than 0 to largest")
    axis.set_title(f"Ranges of {len(report.rows)} float tensors in FP32, pictures: {report.pictures}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8, ncols=4, frameon=False)


def _points(axis: Axes) -> tuple[float, float]:
    """Width and height of a drawing in points, 1/72 inch, the unit of font sizes and line widths."""
    box = axis.get_window_extent()
    return box.width / axis.figure.dpi * 72, box.height / axis.figure.dpi * 72


def _name_parts(rows: Sequence[TensorRange], axis: Axes) -> float:
    """Shade every other run of tensors of one part of the network and name the runs; the height taken, in points."""
    start, shaded, taken = 0, False, 0.0
    parts = [row.where.scope.split(".")[0] or "(no module)" for row in rows]
    if set(parts) <= {"(no module)"}:
        return taken
    for part, members in itertools.groupby(parts):
        stop = start + len(list(members))
        if shaded:
            axis.axvspan(start - 0.5, stop - 0.5, color="#f0f0f0", zorder=0)
        room, length = (stop - start) / len(rows) * _points(axis)[0], len(part) * _LETTER
        upright = length > room
        if room > _FONT * 1.25:
            taken = max(taken, 8 + (length if upright else _LINE))
            axis.annotate(
                part,
                ((start + stop - 1) / 2, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90 if upright else 0,
                fontsize=_FONT,
            )
        start, shaded = stop, not shaded
    return taken


def _name_worst(report: RangeReport, axis: Axes, count: int) -> float:
    """Name the bars that pass 65,504 the furthest, one for each function; the height taken at the top, in points."""
    place = {row.tensor: i for i, row in enumerate(report.rows)}
    chosen: dict[str, TensorRange] = {}
    for row in sorted(report.overflowing(), key=lambda row: row.headroom):
        function = row.where.lines[0].split()[-1] if row.where.lines else row.operator
        if len(chosen) < count:
            chosen.setdefault(function, row)
    # A name stands on the side of its bar that has more room. The outermost are the highest, so that no line from a
    # name to its bar passes another name of that side.
    middle, height = len(report.rows) / 2, _points(axis)[1]
    outermost = sorted(chosen.items(), key=lambda item: -abs(place[item[1].tensor] - middle))
    for line, (function, row) in enumerate(outermost):
        x = place[row.tensor]
        to_the_left = x >= middle
        axis.annotate(
            f"{row.tensor} ({function}), up to {row.largest:,.0f}",
            (x, row.largest),
            # Aside, so that the line to the bar is not taken for one.
            xytext=(x + (-0.05 if to_the_left else 0.05) * len(report.rows), 1 - (line + 0.75) * _LINE / height),
            textcoords=("data", "axes fraction"),
            ha="right" if to_the_left else "left",
            va="center",
            fontsize=_FONT,
            color="#d62728",
            # Lines to names of the other side pass behind.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            arrowprops={
                "arrowstyle": "-",
                "color": "#d62728",
                "linewidth": 0.6,
                "shrinkB": 0,
                "relpos": (float(to_the_left), 0.5),
            },
        )
    return (len(chosen) + 0.75) * _LINE if chosen else 0.0
