"""What every runtime has in common: arrays in by name, arrays out by name, and one error.

ONNX Runtime, TensorRT and the PyTorch interpreter are runners. What is built on a runner
(:mod:`helpers.graph.detect`, comparing, searching) does not know which one it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from helpers.errors import CourseError

__all__ = ["Arrays", "GraphInputError", "Runner", "RunnerError", "checked_feeds", "checked_outputs"]

Arrays = dict[str, npt.NDArray[Any]]
Shape = Sequence[int | str]


class RunnerError(CourseError):
    """A runtime cannot load a graph, or its run stopped."""


class GraphInputError(RunnerError):
    """A graph was fed something else than it takes, or asked for a tensor that it does not have."""


def checked_feeds(
    who: str, wanted: Mapping[str, tuple[npt.DTypeLike | None, Shape | None]], feeds: Mapping[str, npt.NDArray[Any]]
) -> Arrays:
    """The feeds that a graph takes, each of the type and shape that it declares; other feeds are left out.

    wanted: type and shape by name; None for either if the graph does not say. In a shape -1, 0 or a name is free.

    Raises:
        GraphInputError: a feed is missing, or has another type or shape.
    """
    taken = {}
    for name, (kind, shape) in wanted.items():
        if name not in feeds:
            raise GraphInputError(
                f"{who} takes an input {name!r}, and the feeds have {', '.join(feeds) or 'nothing'}",
                "give an array for each of the graph's inputs",
            )
        array = np.asarray(feeds[name])
        fits = (kind is None or array.dtype == kind) and (shape is None or array.ndim == len(shape))
        if not fits or any(isinstance(w, int) and 0 < w != n for w, n in zip(shape or (), array.shape, strict=False)):
            takes = " ".join(str(part) for part in (kind and np.dtype(kind), list(shape or ())) if part)
            raise GraphInputError(
                f"{who} takes {takes} as {name!r}, got {array.dtype} {list(array.shape)}",
                "prepare the picture for this graph with helpers.detector.preprocess.prepare",
            )
        taken[name] = array
    return taken


def checked_outputs(who: str, have: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The names that are wanted, all by default. Raises :class:`GraphInputError` for one that there is not."""
    for name in wanted or ():
        if name not in have:
            raise GraphInputError(f"{who} has no output {name!r}", f"use some of: {', '.join(have)}")
    return tuple(have if wanted is None else wanted)


class Runner(Protocol):
    """A graph ready to run.

    name: for messages. input_shapes: of each input that declares one, a dimension that may vary being a name or -1.
    output_names: what the graph returns, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def input_shapes(self) -> Mapping[str, tuple[int | str, ...]]: ...
    @property
    def output_names(self) -> tuple[str, ...]: ...

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None) -> Arrays:
        """The named outputs (all by default) for one array an input; feeds that the graph does not have are left out.
        The arrays are the caller's own: to change one changes no other run.

        Raises:
            GraphInputError: an input is missing or has another shape or type, or an output does not exist.
            RunnerError: the run stopped.
        """
        ...
