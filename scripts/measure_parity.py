"""Does the exported graph find what PyTorch finds, on pictures of every shape and over a whole dataset? One JSON.

    python scripts/measure_parity.py --output evidence/parity_cpu.json

Three questions, each of the graph with the patches that make it correct, in ONNX Runtime on a CPU:

- each demo picture, and pieces of two of them of the shapes 4:3, 3:4 and 16:9, alone, by the contract;
- a batch of four shapes in three orders, by the contract, against PyTorch on each picture alone;
- box and mask AP of both over the validation set.

Exit code 1 if one of the answers is no.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers import evidence, paths
from helpers.compare.parity import AP_TOLERANCE, Parity, compare, same_average_precision
from helpers.detector import evaluation, inference
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.errors import CourseError
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.onnx_runtime import OnnxRunner
from scripts.ap_study import add_options, chosen

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

    from helpers.detector.detections import Detections

    Picture = npt.NDArray[np.uint8]

ORDERS = ((0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0))


def demo_pictures() -> dict[str, Picture]:
    """The demo pictures by name."""
    return {path.stem: read_picture(path) for path in sorted((paths.DATA / "demo").glob("*.jpg"))}


def pieces(pictures: Mapping[str, Picture]) -> dict[str, Picture]:
    """Parts of `crowd` and `huge`, from the top left corner: a camera's shape, the same upright, a film's."""
    cut = {}
    for name in ("crowd", "huge"):
        height, width = pictures[name].shape[:2]
        for shape, ratio in {"4:3": 4 / 3, "3:4": 3 / 4, "16:9": 16 / 9}.items():
            part = pictures[name][: min(height, round(width / ratio)), : min(width, round(height * ratio))]
            cut[f"{name}, {shape}"] = np.ascontiguousarray(part)
    return cut


def four_shapes(pictures: Mapping[str, Picture]) -> dict[str, Picture]:
    """A landscape, an upright, a square and a wide one: what is batched."""
    cut = pieces(pictures)
    return {
        "4:3": cut["crowd, 4:3"],
        "3:4": cut["crowd, 3:4"],
        "1:1": pictures["square"],
        "16:9": cut["crowd, 16:9"],
    }


def row(flavour: str, name: str, picture: Picture, parity: Parity) -> dict[str, Any]:
    """One line of the table. The differences are those of the matched detections, None where there are none."""
    matched = len(parity.pairs)
    return {
        "graph": flavour,
        "picture": name,
        "pixels": [int(length) for length in picture.shape[:2]],
        "matched": matched,
        "without partner": [len(parity.only_first), len(parity.only_second)],
        "box px": float(parity.box_error.max()) if matched else None,
        "score": float(parity.score_error.max()) if matched else None,
        "mask IoU": float(parity.mask_overlap.min()) if matched else None,
        "verdict": parity.broken_by or "agrees",
    }


class Study:
    """What PyTorch finds in each picture, found once, and the graphs that are to find the same."""

    def __init__(self, name: str, detector: BaseDetector, shape: tuple[int, int]) -> None:
        self.name, self.detector, self.shape = name, detector, shape
        self.found: dict[str, Detections] = {}

    def runner(self, label: str, flavour: str, **options: Any) -> OnnxRunner:
        batch = 4 if "dynamic_axes" in options else 1
        options = {"input_shape": (batch, 3, *self.shape), "detector": self.detector, **options}
        return OnnxRunner(export.make_onnx(self.name, flavour, label=f"parity-{label}", **options))

    def expected(self, name: str, picture: Picture) -> tuple[NetworkInput, Detections]:
        prepared = prepare(picture, self.shape)
        if name not in self.found:
            self.found[name] = inference.detect_prepared(self.detector, prepared, rescale=False)
        return prepared, self.found[name]

    def alone(self, flavour: str, pictures: Mapping[str, Picture]) -> list[dict[str, Any]]:
        runner, rows = self.runner(flavour, flavour), []
        for name, picture in pictures.items():
            prepared, expected = self.expected(name, picture)
            rows.append(row(flavour, name, picture, compare(expected, detect.detect_prepared(runner, prepared))))
            print(*rows[-1].values(), sep=", ", flush=True)
        return rows

    def together(self, pictures: Mapping[str, Picture]) -> list[dict[str, Any]]:
        runner, rows = self.runner("batch", "standard", **export.dynamic_options()), []
        names = list(pictures)
        for order in ORDERS:
            wanted = [self.expected(names[i], pictures[names[i]]) for i in order]
            found = detect.detect_batch(runner, [prepared for prepared, _ in wanted])
            for place, i in enumerate(order):
                parity = compare(wanted[place][1], found[place])
                label = f"batch {' '.join(names[j] for j in order)}: {names[i]}"
                rows.append(row("standard, any batch", label, pictures[names[i]], parity))
                print(*rows[-1].values(), sep=", ", flush=True)
        return rows

    def average_precision(self, pictures: evaluation.EvaluationSet) -> dict[str, Any]:
        # Kept, so that a second run need not ask again.
        kept = paths.build_dir(self.name) / f"pytorch_results_{pictures.digest()[:12]}.json"
        results = inference.results_on(pictures, self.detector, kept, self.shape)
        first = evaluation.score(pictures, results)
        find = functools.partial(detect.detect, self.runner("lean", "standard", masks="lean"))
        second = evaluation.evaluate(pictures, find, description="ONNX Runtime")
        sides = {"PyTorch": first, "ONNX Runtime": second}
        rounded = {name: [round(one.box, 5), round(one.mask, 5)] for name, one in sides.items()}
        return {**rounded, "tolerance": AP_TOLERANCE, "agrees": same_average_precision(first, second)}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, pictures=None)
    given = parser.parse_args(words)
    name, detector, validation = chosen(given)
    # The commit is asked for before the minutes in which files may change.
    head = evidence.head("exported graph against PyTorch: demo pictures, pieces, batches, AP; ONNX Runtime on a CPU")
    demo = demo_pictures()
    study = Study(name, detector, tuple(given.input))
    rows = study.alone("standard", demo | pieces(demo)) + study.alone("mmcv", pieces(demo))
    rows += study.together(four_shapes(demo))
    precision = study.average_precision(validation)
    sizes = {"input": list(given.input), "pictures": len(validation)}
    evidence.save(given.output, {**head, "model": name, **sizes, "rows": rows, "average_precision": precision})
    print(pd.DataFrame(rows).to_string(index=False))
    print(precision)
    return 0 if precision["agrees"] and all(one["verdict"] == "agrees" for one in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CourseError as error:
        sys.exit(str(error))
