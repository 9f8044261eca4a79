"""Times that can be compared although the machine is not quiet: the ways take turns, and what counts are ratios."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["PAUSE", "busy_machine", "in_pairs", "ratios", "take_turns"]

#: Seconds of silence before a way's turn. A runtime's threads go on asking for work for a while after a run: without a
#: pause each takes that time from the one after it (measured with ONNX Runtime's: 0.37 s instead of 0.28 s; those of
#: :class:`helpers.graph.onnx_runtime.OnnxRunner` stop with the run, others do not).
PAUSE = 0.3


def busy_machine(load_before: float) -> dict[str, Any]:
    """For a record of times: the processor, how many of it this process may use, and how busy they were (the mean
    number of waiting processes of a minute) before the measurement and now."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores and threads": len(os.sched_getaffinity(0)),
        "load before": round(load_before, 1),
        "load after": round(os.getloadavg()[0], 1),
    }


def in_pairs(
    reference: str, makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int
) -> list[dict[str, Any]]:
    """The rows of :func:`ratios`, each way having taken turns with the reference alone.

    A maker loads what its way needs, which is let go before the next pair: what else is alive, and what it did a moment
    ago, may take memory and time from a way. A row has the reference's median in its own pair; the reference's row
    that over all pairs.
    """
    rows, of_reference = [], []
    for name, make in makers.items():
        if name != reference:
            seconds = take_turns({reference: makers[reference](), name: make()}, rounds)
            rows.append(
                {
                    **ratios(seconds, reference)[1],
                    f"{reference} beside it, s": round(statistics.median(seconds[reference]), 3),
                }
            )
            of_reference += seconds[reference]
    return [*ratios({reference: of_reference}, reference), *rows]


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, *, pause: float = PAUSE
) -> dict[str, list[float]]:
    """Seconds of each way in each of ``rounds`` rounds, after one that does not count (memory is claimed in it).
    ``pause`` seconds pass before each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            time.sleep(pause)
            start = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], reference: str) -> list[dict[str, Any]]:
    """One row a way: its median, what that is of the reference's median, and the least and the largest ratio within a
    round."""
    middle = statistics.median(seconds[reference])
    rows = []
    for name, own in seconds.items():
        inside = [one / other for one, other in zip(own, seconds[reference], strict=True)]
        rows.append(
            {
                "way": name,
                "median s": round(statistics.median(own), 3),
                "ratio": round(statistics.median(own) / middle, 3),
                "least ratio": round(min(inside), 3),
                "largest ratio": round(max(inside), 3),
                "seconds": [round(one, 3) for one in own],
            }
        )
    return rows
