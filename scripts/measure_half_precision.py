"""Average precision in simulated half precision, with the ways to save it: one table, one JSON.

    python scripts/measure_half_precision.py --output evidence/half_precision_cpu.json
    python scripts/measure_half_precision.py --model r50 --random-weights --output evidence/half_precision_r50.json

Runs on any CPU, about 4 s a picture and row on two cores. Each row is written as soon as it is measured, and a second
call goes on with the rows that are missing; ``--pictures`` takes the first few of the scenes only, and ``--rows``
some of the rows. With random weights, which need no checkpoint, AP means nothing and is left out: what is measured then
is the agreement with FP32 on one demo scene.

The rows: the graph in FP32; in half precision as it is; with the article's first and last list of operator types in
FP32; with the types that an automatic elimination leaves of the first; with the minimal plan, alone and with the nodes
that are infinite in spite of it on any demo scene; with the patches that need no FP32 node, in float16 and bfloat16;
and with one of these patches left out in turn, where that fails silently.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd

from helpers import evidence, paths
from helpers.detector import evaluation, models
from helpers.detector.preprocess import prepare, read_picture
from helpers.errors import CourseError
from helpers.export import exporter as export
from helpers.graph.detect import detect, feeds
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.half_precision.by_type import ARTICLE_FINAL, ARTICLE_FIRST, eliminate, nodes_of_types, with_data_movement
from helpers.half_precision.search import Simulation, agreement, find_plan, same_detections
from helpers.half_precision.simulation import hunt, round_results

if TYPE_CHECKING:
    from mmdet.models import BaseDetector

PICTURE = "crowd"


class Rows:
    """The graphs of the table, each made when it is asked for. masks: as of the exporter, "full" or "lean"."""

    def __init__(self, model: str, random_weights: bool, masks: str = "full") -> None:
        self.model = model
        self.random_weights = random_weights
        self.masks = masks
        self.makers: dict[str, Callable[[], tuple[onnx.ModelProto, int]]] = {
            "FP32": lambda: (self.plain, len(self.plain.graph.node)),
            "half, nothing in FP32": lambda: self._kept([]),
            "article's first list": lambda: self._types(ARTICLE_FIRST),
            "article's last list": lambda: self._types(ARTICLE_FINAL),
            "types left by elimination": lambda: self._types(self._left()),
            "minimal plan": lambda: self._kept(self.plan()),
            "minimal plan and what is still infinite": lambda: self._kept(self.finite_plan()),
            "patches, no island": lambda: self._rounded(),
            "patches, no island, bfloat16": lambda: self._rounded(form="bfloat16"),
            "patches without p31 (RPN levels by offset)": lambda: self._rounded("p31_rpn_levels_by_row"),
            "patches without p34 (area of RoIs)": lambda: self._rounded("p34_roi_scale_without_area"),
        }

    @functools.cached_property
    def detector(self) -> BaseDetector:
        return models.build_random_detector(self.model) if self.random_weights else models.load_detector(self.model)

    @functools.cached_property
    def plain(self) -> onnx.ModelProto:
        return self._export(export.BOXES_MOVED["standard"], "moved")

    @functools.cached_property
    def feeds(self) -> dict[str, npt.NDArray[np.float32]]:
        return feeds([prepare(read_picture(paths.DATA / "demo" / f"{PICTURE}.jpg"))])

    @functools.cached_property
    def reference(self) -> dict[str, npt.NDArray[Any]]:
        return OnnxRunner(self.plain).run(self.feeds, ["dets", "labels"])

    def _export(self, applied: tuple[str, ...], label: str) -> onnx.ModelProto:
        label = f"{'random-' if self.random_weights else ''}{label}{'-lean' if self.masks == 'lean' else ''}"
        # A default that is spelled out is another file to the exporter, and chapter 07 leaves it out.
        options: dict[str, Any] = {"applied": applied, "label": label}
        if self.masks != "full":
            options["masks"] = self.masks
        return load_onnx(export.make_onnx(self.model, "standard", detector=self.detector, **options))

    def _kept(self, names: Any) -> tuple[onnx.ModelProto, int]:
        return round_results(self.plain, keep=names), len(names)

    def plan(self) -> list[str]:
        """The nodes of the minimal plan."""
        return list(find_plan(self.plain, self.feeds).plan.names)

    def finite_plan(self) -> list[str]:
        """The nodes of the minimal plan and those that are infinite in spite of it, on any demo scene."""
        names = self.plan()
        still: list[str] = []
        # Each picture reaches other branches: that of the masks of large objects, say.
        for file in sorted((paths.DATA / "demo").glob("*.jpg")):
            found = hunt(self.plain, feeds([prepare(read_picture(file))]), keep=names)
            # A constant is infinite only where it is rounded for readers outside of the islands, and has none there.
            still += [suspect.node for suspect in found.suspects if suspect.where.lines]
        return list(dict.fromkeys([*names, *still]))

    def _types(self, types: tuple[str, ...]) -> tuple[onnx.ModelProto, int]:
        return self._kept(with_data_movement(self.plain, nodes_of_types(self.plain, types)))

    def _left(self) -> tuple[str, ...]:
        names = with_data_movement(self.plain, nodes_of_types(self.plain, ARTICLE_FIRST))
        run = Simulation(self.plain, self.feeds, names).run
        judge = same_detections(self.reference)
        return eliminate(self.plain, ARTICLE_FIRST, lambda kept: judge(run(with_data_movement(self.plain, kept))))[0]

    def patched(self, left_out: str = "") -> onnx.ModelProto:
        """The graph with the patches for half precision, but for one."""
        chosen = tuple(name for name in export.HALF if name != left_out)
        return self._export((*export.CORRECT["standard"], *chosen), f"half-{left_out.split('_')[0] or 'all'}")

    def _rounded(self, left_out: str = "", form: str = "float16") -> tuple[onnx.ModelProto, int]:
        return round_results(self.patched(left_out), form=form), 0


def measure(rows: Rows, name: str, pictures: evaluation.EvaluationSet | None) -> dict[str, Any]:
    """One row of the table, without AP where there are no pictures."""
    model, nodes = rows.makers[name]()
    runner = OnnxRunner(model, optimise=name == "FP32")
    found = runner.run(rows.feeds, ["dets", "labels"])
    same = agreement(rows.reference, found)
    row = {
        "row": name,
        "nodes in FP32": nodes,
        f"not finite in dets of {PICTURE!r}": same.non_finite,
        "share with a partner": round(same.share, 4),
        "median box error, px": None if np.isnan(same.box) else round(same.box, 3),
    }
    if pictures is None:
        return row
    start = time.perf_counter()
    result = evaluation.evaluate(pictures, functools.partial(detect, runner), description=name)
    return {
        **row,
        "box AP": round(result.box, 4),
        "mask AP": round(result.mask, 4),
        "seconds a picture": round((time.perf_counter() - start) / len(pictures), 2),
    }


def stored_rows(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call's record; none if there is no such file."""
    if not path.exists():
        return []
    try:
        stored = json.loads(path.read_text())
        rows = [dict(row) for row in stored["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is no record of this script", "give another file") from error
    if {key: stored.get(key) for key in about} != about:
        raise CourseError(f"{path} is the record of another measurement", "give another file")
    return rows


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, and to go on with")
    parser.add_argument("--model", default="emoji", metavar="NAME", help="emoji (default) or r50")
    parser.add_argument("--random-weights", action="store_true", help="random weights: agreement only, no AP")
    parser.add_argument("--pictures", type=int, help="how many of the validation scenes (default: all)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some rows only, by name")
    parser.add_argument("--commit", help="the commit, for a copy without a repository")
    arguments = parser.parse_args(words)
    rows = Rows(arguments.model, arguments.random_weights)
    strangers = set(arguments.rows or ()) - rows.makers.keys()
    if strangers:
        raise CourseError(f"there is no row {min(strangers)!r}", f"use some of: {', '.join(rows.makers)}")
    whole = evaluation.load_set()
    count = len(whole) if arguments.pictures is None else arguments.pictures
    if not 1 <= count <= len(whole):
        raise CourseError(f"there are {len(whole)} scenes, not {count}", "ask for as many or fewer")
    about = {
        "what": "simulated half precision (every float result rounded) in ONNX Runtime on a CPU; see the script",
        "model": f"{arguments.model}, random weights" if arguments.random_weights else arguments.model,
        "pictures": 0 if arguments.random_weights else count,
        "processor": platform.processor() or platform.machine(),
    }
    done = stored_rows(arguments.output, about)
    for name in arguments.rows or rows.makers:
        if name in [row["row"] for row in done]:
            continue
        pictures = None if arguments.random_weights else whole.head(count)
        done.append({**measure(rows, name, pictures), "commit": arguments.commit or evidence.commit() or ""})
        done.sort(key=lambda row: list(rows.makers).index(row["row"]))
        head = evidence.head(str(about["what"]), {"processor": about["processor"]}, of=arguments.commit)
        evidence.save(arguments.output, {**head, **about, "rows": done})
    print(pd.DataFrame(done).to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
