"""What each defect of an exported graph costs in average precision: one table, one JSON.

    python scripts/measure_broken_graphs.py --output evidence/broken_graphs_cpu.json --input 400 608

Chapter 04 mends a graph defect by defect, by comparison with PyTorch. Here the graphs between the first and the mended
one, and the one with the half-pixel shift alone mended, detect on ``--pictures`` pictures at equal distances in the
validation set, scaled into ``--input``; default all of them, at the full input. All are of the standard flavour with
lean masks, in ONNX Runtime on a CPU.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import evidence
from helpers.detector import evaluation
from helpers.errors import CourseError
from helpers.export import exporter as export
from helpers.graph.detect import detect
from helpers.graph.onnx_runtime import OnnxRunner
from scripts.ap_study import add_options, chosen, write

NEEDED = export.NEEDED["standard"]
LEVELS, HALF_PIXEL, UNMOVED = "p07_rpn_levels_apart", "p08_roi_align_half_pixel", "p14_boxes_not_moved"
#: The patches of each graph by its row's name.
GRAPHS = {
    "unpatched": NEEDED,
    "levels apart": (*NEEDED, LEVELS),
    "half pixel": (*NEEDED, HALF_PIXEL),
    "levels apart, half pixel": (*NEEDED, LEVELS, HALF_PIXEL),
    "levels apart, half pixel, boxes as decoded": (*NEEDED, LEVELS, HALF_PIXEL, UNMOVED),
    "correct": export.CORRECT["standard"],
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, pictures=None)
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=tuple(GRAPHS), help="default: all of them")
    given = parser.parse_args(words)
    name, detector, pictures = chosen(given)
    # The commit is asked for before the minutes in which files may change.
    head = evidence.head("AP of exported graphs with a defect less each, ONNX Runtime on a CPU")
    rows: list[dict[str, Any]] = []
    for graph in given.graphs:
        file = export.make_onnx(
            name,
            label=f"broken-{list(GRAPHS).index(graph)}",
            applied=GRAPHS[graph],
            detector=detector,
            masks="lean",
            input_shape=(1, 3, *given.input),
        )
        runner, start = OnnxRunner(file), time.perf_counter()
        result = evaluation.evaluate(pictures, functools.partial(detect, runner), description=graph)
        seconds = (time.perf_counter() - start) / len(pictures)
        rows.append(
            {
                "graph": graph,
                "patches": [patch[:3] for patch in GRAPHS[graph]],
                "box AP": round(result.box, 4),
                "mask AP": round(result.mask, 4),
                "seconds a picture": round(seconds, 2),
            }
        )
        print(rows[-1], flush=True)
    write(given, head, name, pictures, rows)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
