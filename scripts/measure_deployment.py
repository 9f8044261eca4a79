"""What a picture costs in mmdet's PyTorch, in the full graph, and in lean graphs with pasting: one table, one JSON.

    python scripts/measure_deployment.py --output evidence/deployment_emoji.json
    python scripts/measure_deployment.py --model r50 --random-weights --output evidence/deployment_r50.json

From the decoded picture to boxes and masks in the picture's own pixels, at 800 x 1216, on any CPU. Each way takes turns
with PyTorch, so that what else the machine does falls on both alike; the ratios are of medians, with the least and the
largest of a single round. Then three profiled runs of each graph, their median by part of the detector, and the rate
of a large matrix product before and after.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy.typing as npt
import onnxruntime
import pandas as pd
import torch

from helpers import evidence, paths
from helpers.compare.parity import compare
from helpers.deploy import profile as profiling
from helpers.deploy.turns import busy_machine, in_pairs
from helpers.detector import inference, models
from helpers.detector.detections import Detections
from helpers.detector.preprocess import prepare, read_picture
from helpers.errors import CourseError
from helpers.export import exporter
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner

PYTORCH, FULL, LEAN = "mmdet, PyTorch", "full graph", "lean graph and pasting"
WITHOUT = "lean graph without patches 41 and 42"


def agreement(reference: Detections, found: Detections) -> dict[str, Any]:
    """Whether the parity contract holds in the picture's own pixels, and by how much."""
    report = compare(reference, found)
    return {"detections": len(reference), "parity": report.agrees, "report": str(report)}


def by_part(model: Path, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, float]:
    times = profiling.profile(model, feeds, runs=3, warm=True)
    return {name: round(value, 4) for name, value in profiling.seconds_by(times, lambda node: node.part).items()}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", default="emoji", metavar="NAME", help="emoji (default) or r50")
    parser.add_argument("--random-weights", action="store_true", help="random weights, where there is no checkpoint")
    parser.add_argument("--pictures", nargs="+", default=["crowd"], metavar="NAME", help="demo pictures (crowd)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is measured (5)")
    parser.add_argument("--note", default="", help="what else the machine did, say")
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        raise CourseError(f"{arguments.rounds} rounds measure nothing", "give 1 or more")
    pictures = [read_picture(paths.DATA / "demo" / f"{name}.jpg") for name in arguments.pictures]
    make = models.build_random_detector if arguments.random_weights else models.load_detector
    detector, label = make(arguments.model), "random" if arguments.random_weights else ""
    export = functools.partial(exporter.make_onnx, arguments.model, detector=detector)
    slower = (*exporter.CORRECT["standard"], exporter.LEAN)
    files = {
        FULL: export(label=label),
        WITHOUT: export(label=f"{label}-every-level".strip("-"), applied=slower),
        LEAN: export(label=f"{label}-lean".strip("-"), masks="lean"),
    }
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)

    def way(name: str) -> Callable[[], object]:
        if name == PYTORCH:
            return lambda: [inference.detect(detector, one) for one in pictures]
        runner = OnnxRunner(files[name], threads=cores)
        return lambda: [detect.detect(runner, one) for one in pictures]

    busy, limit = os.getloadavg()[0], profiling.matrix_product_limit()
    rows = in_pairs(PYTORCH, {name: functools.partial(way, name) for name in (PYTORCH, *files)}, arguments.rounds)
    reference = inference.detect(detector, pictures[0])
    same = {name: agreement(reference, detect.detect(OnnxRunner(file), pictures[0])) for name, file in files.items()}
    feeds = detect.feeds([prepare(pictures[0])])
    parts = {name: by_part(file, feeds) for name, file in files.items()}
    limits = [limit, profiling.matrix_product_limit()]
    counts = profiling.operations_by_part(load_onnx(files[LEAN]))
    machine = {**busy_machine(busy), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    record = {
        **evidence.head("seconds for the pictures on a CPU, the ways taking turns; see the script", machine),
        "model": f"{arguments.model}{', random weights' if arguments.random_weights else ''}",
        "pictures": arguments.pictures,
        "note": arguments.note,
        "rows": rows,
        "against PyTorch, in the picture's pixels": same,
        "seconds by part, of profiled runs": parts,
        "operations by part": counts,
        "GFLOP/s of a matrix product, before and after": [round(one / 1e9, 1) for one in limits],
    }
    evidence.save(arguments.output, record)
    print(pd.DataFrame(record["rows"]).drop(columns="seconds").to_string(index=False))
    print(pd.DataFrame(parts).to_string())


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
