"""Nodes of a graph that stay in FP32 so that its half-precision run is right: found by trials, none of them idle.

The trials run the simulation of :mod:`helpers.half_precision.simulation` on any CPU. :func:`minimal_set` is delta
debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) turned round: instead of a
smallest input that still fails it looks for a smallest set of FP32 nodes that still passes. Of their two kinds of tries
it makes one, the set without a part of it: a part alone hardly ever passes, because the nodes on the way of one large
number are needed together. The result is 1-minimal among the candidates, and proven so: every node was left out alone,
and each time the test failed. That is all: a smaller set of other nodes may pass, of the candidates or beside them, and
so may the set without two of its nodes. :func:`indispensable` tells more, for a trial a node.

:func:`find_plan` does the whole search for one graph; the parts work with any test of one's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from tqdm import tqdm

from helpers import artifacts
from helpers.errors import CourseError
from helpers.graph.cut import check_feeds, extract, run_part
from helpers.graph.index import GraphIndex
from helpers.graph.origins import origin
from helpers.half_precision.agreement import HALF_TOLERANCE, Agreement, HalfTolerance, agreement
from helpers.half_precision.plan import Plan, PlanNode
from helpers.half_precision.simulation import Hunt, float_tensors, hunt, require_nodes, round_results

__all__ = [
    "HALF_TOLERANCE",
    "Agreement",
    "HalfTolerance",
    "Minimal",
    "Outcome",
    "PrecisionSearchError",
    "Search",
    "Simulation",
    "Trials",
    "agreement",
    "find_plan",
    "indispensable",
    "minimal_set",
    "same_detections",
]

Array = npt.NDArray[Any]


class PrecisionSearchError(CourseError):
    """The search cannot be made or cannot succeed: the test fails with everything in FP32, or trials on disk would
    answer, or do answer, another question."""


# --- what counts as right ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """passed, and why (or why not) in a few words."""

    passed: bool
    detail: str = ""


def same_detections(
    reference: Mapping[str, Array], tolerance: HalfTolerance = HALF_TOLERANCE
) -> Callable[[Mapping[str, Array]], Outcome]:
    """A judge of a run's outputs: the reference's detections, by :class:`HalfTolerance`, and every number finite."""

    def judge(found: Mapping[str, Array]) -> Outcome:
        result = agreement(reference, found, tolerance)
        return Outcome(result.within(tolerance), str(result))

    return judge


# --- one trial --------------------------------------------------------------------------------------------------------


class Simulation:
    """Half-precision runs of one graph that differ only in which of the ``candidates`` stay in FP32.

    What lies before every candidate is run once; each trial runs the rest, as far as ``outputs`` need it.

    Raises:
        helpers.half_precision.simulation.HalfPrecisionError: as
            :func:`helpers.half_precision.simulation.round_results`.
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape; an output is not in
            the graph.
        helpers.graph.runner.RunnerError: ONNX Runtime refuses the graph, or stops in it; of a trial too.
    """

    def __init__(
        self,
        model: onnx.ModelProto | GraphIndex,
        feeds: Mapping[str, Array],
        candidates: Collection[str],
        *,
        outputs: Sequence[str] = ("dets", "labels"),
        form: str = "float16",
    ) -> None:
        index = GraphIndex.of(model)
        require_nodes(index, candidates)
        self.candidates = frozenset(candidates)
        self.outputs = tuple(outputs)
        self.form = form
        feeds = check_feeds(index, feeds)
        needed = GraphIndex(extract(index, outputs))
        after: set[str] = set()
        read: set[str] = set(outputs)
        for node in needed.nodes:
            if node.name in self.candidates or after.intersection(needed.reads(node)):
                after.update(node.output)
                read.update(needed.reads(node))
        # Constants are no work, and an island reads them unrounded: they go with each trial.
        own = {*needed.inputs, *needed.initializers}
        own |= {name for name, node in needed.producer.items() if node.op_type == "Constant"}
        border = sorted(read - after - own)
        arrays = run_part(extract(round_results(needed, form=form), border), feeds) if border else {}
        self._given = {name: array for name, array in arrays.items() if name in self.outputs}
        self._rest = GraphIndex(extract(needed, [name for name in outputs if name not in self._given], arrays))
        self._feeds = {**feeds, **arrays}

    def run(self, keep: Collection[str]) -> dict[str, Array]:
        """The outputs with the nodes ``keep``, of the candidates, in FP32."""
        strangers = set(keep) - self.candidates
        if strangers:
            raise PrecisionSearchError(f"{min(strangers)!r} is not among the candidates", "make a Simulation with it")
        if not self._rest.outputs:
            # No candidate has a part in the outputs.
            return dict(self._given)
        present = {node.name for node in self._rest.nodes}
        rounded = round_results(self._rest, keep=set(keep) & present, form=self.form)
        return {**self._given, **run_part(rounded, self._feeds)}


class Trials:
    """A test of sets of FP32 nodes that is asked about each set once; answers survive an interrupt in ``path``.

    test: gets the set, says whether it passes. key: names the question (model, inputs, test), and has to be given with
    a path; trials on disk with another key are refused.

    Raises:
        PrecisionSearchError: the file holds another question's trials, or is no such file; or a path without a key.
    """

    def __init__(
        self, test: Callable[[frozenset[str]], Outcome | bool], *, path: Path | None = None, key: str = ""
    ) -> None:
        self._test = test
        self._path = path
        self._key = key
        self._known: dict[frozenset[str], Outcome] = {}
        self.run = 0
        if path is not None and not key:
            raise PrecisionSearchError(
                "trials that are kept in a file need a key, or another question gets their answers",
                "name model, inputs and test in key=",
            )
        if path is not None and path.exists():
            self._load(path)
        self.remembered = len(self._known)

    def _load(self, path: Path) -> None:
        next_step = "delete it, or give another path"
        try:
            stored = artifacts.read_json(path)
            key, rows = (
                stored["key"],
                [(frozenset(r["keep"]), Outcome(r["passed"], r["detail"])) for r in stored["trials"]],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PrecisionSearchError(f"{path} holds no trials of a precision search", next_step) from error
        if key != self._key:
            raise PrecisionSearchError(f"{path} holds the trials of another model, picture or test", next_step)
        self._known = dict(rows)

    def __call__(self, keep: Iterable[str]) -> Outcome:
        names = frozenset(keep)
        if names not in self._known:
            result = self._test(names)
            self._known[names] = _outcome(result)
            self.run += 1
            if self._path is not None:
                rows = [{"keep": sorted(k), "passed": o.passed, "detail": o.detail} for k, o in self._known.items()]
                artifacts.write_text(self._path, json.dumps({"key": self._key, "trials": rows}, indent=1))
        return self._known[names]


def _outcome(result: Outcome | bool) -> Outcome:
    # A test of one's own may answer with NumPy's booleans, which JSON does not know.
    return Outcome(bool(result.passed), result.detail) if isinstance(result, Outcome) else Outcome(bool(result))


# --- the search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minimal:
    """nodes: pass the test, in the candidates' order. without: for each, the failing outcome of the others alone."""

    nodes: tuple[str, ...]
    without: Mapping[str, Outcome]


def minimal_set(test: Trials, candidates: Sequence[str], *, description: str = "fewer FP32 nodes") -> Minimal:
    """A subset of the candidates that passes, and no longer does if any one node is taken out (1-minimal).

    It need not be the smallest subset that passes; which one it is depends on the candidates' order.

    Raises:
        PrecisionSearchError: the test fails with all candidates.
    """
    current = list(dict.fromkeys(candidates))
    whole = test(current)
    if not whole.passed:
        raise PrecisionSearchError(
            f"the test fails even with all {len(current)} candidates in FP32 ({whole.detail or 'no reason given'})",
            "take more candidates, or a test that the FP32 run passes",
        )
    if test(()).passed:
        return Minimal((), {})
    with tqdm(desc=description, unit="trial", leave=False) as progress:
        size = max(len(current) // 2, 1)
        while True:
            before, start = len(current), 0
            while start < len(current):
                rest = current[:start] + current[start + size :]
                if test(rest).passed:
                    current = rest
                else:
                    start += size
                progress.update()
                progress.set_postfix_str(f"{len(current)} nodes")
            if size == 1 and len(current) == before:
                break
            size = max(size // 2, 1)
    without = {name: test([other for other in current if other != name]) for name in current}
    return Minimal(tuple(current), without)


def indispensable(test: Trials, candidates: Sequence[str], nodes: Sequence[str]) -> tuple[str, ...]:
    """Those of the ``nodes`` without which the test fails even with all other candidates in FP32: a trial each.

    For a test that more nodes in FP32 never make fail, each of them is in every set of candidates that passes. So if
    all nodes of a :func:`minimal_set` come back, it is the smallest set of the candidates that passes, and no other is
    as small; if fewer do, a passing set has at least that many. Rounding gives no such promise (two errors may cancel),
    and nodes that were no candidates are not spoken of.
    """
    return tuple(name for name in nodes if not test(other for other in candidates if other != name).passed)


@dataclass(frozen=True)
class Search:
    """The result of :func:`find_plan`. plan: 1-minimal among the candidates. candidates: how many nodes the search
    began with; trials: run now; remembered: of an earlier search, from its file."""

    plan: Plan
    minimal: Minimal
    hunt: Hunt
    candidates: int
    trials: int
    remembered: int

    def __str__(self) -> str:
        if not self.plan.nodes:
            return "half precision passes the test with no node in FP32"
        head = f"{len(self.plan.nodes)} of {self.candidates} candidates must stay in FP32 ({self.trials} trials"
        head += f", {self.remembered} remembered)" if self.remembered else ")"
        return "\n".join([head, *(f"  {node}" for node in self.plan.nodes)])


def find_plan(
    model: onnx.ModelProto | GraphIndex,
    feeds: Mapping[str, Array],
    *,
    outputs: Sequence[str] = ("dets", "labels"),
    judge: Callable[[Mapping[str, Array]], Outcome] | None = None,
    form: str = "float16",
    cache: Path | None = None,
    question: str = "",
) -> Search:
    """FP32 nodes with which the half-precision run of a graph passes, and does not without any one of them.

    The candidates are, in turn, until the test passes with all of them: the nodes whose results are not finite in half
    precision; these and what the same functions of the traced code made; all nodes. The plan is 1-minimal among these
    candidates (:func:`minimal_set`), not the smallest there is. ``judge`` sees the ``outputs`` of a run; by default
    they must be those of the FP32 run by :func:`same_detections`.

    ``cache``: a JSON file from which an interrupted search goes on. It is checked against the graph, the feeds, the
    outputs and the ``question``, the caller's name for what its own judge asks, tolerances and all ("boxes within 0.1
    px"): two judges of one name cannot be told apart, so that a cache is refused where a judge has no question.

    Raises:
        PrecisionSearchError: the judge refuses even the FP32 run; the cache is another search's, or was given with a
            judge and no question; the default judge and outputs without ``dets`` and ``labels``.
        helpers.half_precision.simulation.HalfPrecisionError: tensors of unknown type, or bodies that compute.
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape; an output is not in
            the graph.
    """
    if cache is not None and judge is not None and not question:
        raise PrecisionSearchError(
            "a cache cannot tell one judge from another", "say in question what this judge asks, tolerances and all"
        )
    index = GraphIndex.of(model)
    feeds = check_feeds(index, feeds)
    needed = extract(index, outputs)
    floats = float_tensors(index)
    every = [node.name for node in index.nodes if floats.intersection(node.output)]
    if "" in every:
        raise PrecisionSearchError("the graph has nodes without a name", "name them, after their first output say")
    if judge is None:
        if not {"dets", "labels"} <= set(outputs):
            raise PrecisionSearchError("the default judge compares dets and labels", "give a judge for other outputs")
        question = f"{question} {HALF_TOLERANCE}"
        judge = same_detections(run_part(needed, feeds))
    asked = judge
    found = hunt(index, feeds, form=form)
    relevant = {node.name for node in needed.graph.node}
    suspects = {suspect.node for suspect in found.suspects} & relevant
    trials = Trials(
        lambda keep: asked(simulation.run(keep)), path=cache, key=_key(index.model, feeds, outputs, form, question)
    )
    for names in (suspects, suspects | _same_functions(index, suspects), relevant):
        candidates = [name for name in every if name in names]
        if not candidates:
            continue
        # Which nodes are candidates does not change what a trial computes: each of them answers for all rounds.
        simulation = Simulation(index, feeds, candidates, outputs=outputs, form=form)
        if trials(candidates).passed:
            minimal = minimal_set(trials, candidates)
            plan = _with_reasons(index, minimal, found, form)
            return Search(plan, minimal, found, len(candidates), trials.run, trials.remembered)
    raise PrecisionSearchError(
        "the test fails even with every node in FP32", "mend the test: it must accept the outputs of the FP32 run"
    )


def _same_functions(index: GraphIndex, names: Collection[str]) -> set[str]:
    """Nodes that come from the same innermost functions (file and name) as the given ones, where the graph tells."""
    by_function: dict[str, set[str]] = {}
    for node in index.nodes:
        for line in origin(node).lines[:1]:
            by_function.setdefault(re.sub(r":\d+ ", " ", line), set()).add(node.name)
    return {name for members in by_function.values() if members.intersection(names) for name in members}


def _key(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Sequence[str], *words: str) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name, array in sorted(feeds.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode() + array.tobytes())
    digest.update(json.dumps([list(outputs), *words]).encode())
    return digest.hexdigest()


def _with_reasons(index: GraphIndex, minimal: Minimal, found: Hunt, form: str) -> Plan:
    operators = {node.name: node.op_type for node in index.nodes}
    what = {s.node: " and ".join(w for w, so in (("inf", s.inf), ("NaN", s.nan)) if so) for s in found.suspects}
    nodes = []
    for name in minimal.nodes:
        own = f"{what[name]} in {form}; " if name in what else ""
        nodes.append(
            PlanNode(name, operators[name], f"{own}without it: {minimal.without[name].detail or 'test fails'}")
        )
    return Plan(tuple(nodes))
