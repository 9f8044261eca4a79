"""What 8 bits cost in AP and gain in time, by what is quantised: one table, one JSON.

    python scripts/measure_eight_bits.py --output evidence/eight_bits_emoji.json

The lean graph of the embedded model, quantised by ONNX Runtime (helpers/deploy/eight_bits.py), calibrated on the demo
pictures, which are not in the validation set; AP over some of its pictures at equal distances, masks pasted outside the
graph. Each row is written as soon as it is measured; a second call goes on with the rows that are missing. The times,
last, are of one picture, each row taking turns with float32 alone. About 0.4 s a picture and row on two quiet cores.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnxruntime
import pandas as pd

from helpers import evidence, paths
from helpers.artifacts import sha256_file
from helpers.deploy import eight_bits
from helpers.deploy.profile import PARTS
from helpers.deploy.turns import in_pairs
from helpers.detector import evaluation
from helpers.detector.preprocess import prepare, read_picture
from helpers.errors import CourseError
from helpers.export import exporter
from helpers.graph import detect
from helpers.graph.onnx_runtime import OnnxRunner

FLOAT = "float32"
#: The quantised parts of each row, and whether activations are symmetric.
ROWS: dict[str, tuple[tuple[str, ...], bool]] = {
    "everything": (PARTS, True),
    "everything, unsigned activations": (PARTS, False),
    "backbone, neck and RPN": (eight_bits.TRUNK, True),
    "backbone, neck and RPN, unsigned activations": (eight_bits.TRUNK, False),
    "backbone and neck": (("backbone", "neck"), True),
    "all but the mask head": (tuple(name for name in PARTS if name != "mask head"), True),
}


def graph_of(lean: Path, name: str, folder: Path) -> tuple[Path, int]:
    """The graph of a row, and how many of its nodes are quantised."""
    if name == FLOAT:
        return lean, 0
    parts, symmetric = ROWS[name]
    pictures = [prepare(read_picture(file)) for file in sorted((paths.DATA / "demo").glob("*.jpg"))]
    path = folder / f"{name.replace(' ', '-').replace(',', '')}.onnx"
    # Kept from call to call, for this graph only.
    ranges = folder / f"ranges-{sha256_file(lean)[:12]}-{len(pictures)}.json"
    nodes = eight_bits.quantise(lean, path, pictures, parts=parts, symmetric=symmetric, ranges=ranges)
    return path, len(nodes)


def stored_rows(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call's record of the same measurement; none if there is no such file.

    Raises:
        CourseError: the file is the record of another measurement.
    """
    if not path.exists():
        return []
    record = evidence.load(path, ["rows"])
    if {name: record.get(name) for name in about} != about:
        raise CourseError(f"{path} is the record of another measurement", "give another file")
    return [dict(row) for row in record["rows"]]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, and to go on with")
    parser.add_argument("--pictures", type=int, default=12, help="how many of the validation scenes (12)")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW", help="some rows only, by name")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is timed (3)")
    parser.add_argument("--note", default="", help="what else the machine did, say")
    arguments = parser.parse_args(words)
    if strangers := sorted(set(arguments.rows) - set(ROWS)):
        raise CourseError(f"there is no row {strangers[0]!r}", f"use some of: {'; '.join(ROWS)}")
    pictures = evaluation.load_set().spread(arguments.pictures)
    about = {"model": "emoji, lean", "pictures": len(pictures), "calibrated on": "the demo pictures, least and largest"}
    done = stored_rows(arguments.output, about)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "onnxruntime": onnxruntime.__version__,
    }

    def save() -> None:
        head = evidence.head("static 8-bit quantisation (QDQ) in ONNX Runtime on a CPU; see the script", machine)
        evidence.save(arguments.output, {**head, **about, "note": arguments.note, "rows": done})

    folder = paths.build_dir("emoji") / "eight_bits"
    folder.mkdir(exist_ok=True)
    lean = exporter.make_onnx("emoji", label="lean", masks="lean")
    for name in (FLOAT, *(name for name in ROWS if name in arguments.rows)):
        graph, nodes = graph_of(lean, name, folder)
        if name not in [row["row"] for row in done]:
            result = evaluation.evaluate(
                pictures, functools.partial(detect.detect, OnnxRunner(graph)), description=name
            )
            accuracy = {"box AP": round(result.box, 4), "mask AP": round(result.mask, 4)}
            done.append({"row": name, "nodes in 8 bits": nodes, **accuracy})
            save()
    picture = read_picture(paths.DATA / "demo" / "crowd.jpg")

    def way(name: str) -> Callable[[], object]:
        return functools.partial(detect.detect, OnnxRunner(graph_of(lean, name, folder)[0]), picture)

    makers = {row["row"]: functools.partial(way, row["row"]) for row in done}
    for row, times in zip(done, in_pairs(FLOAT, makers, arguments.rounds), strict=True):
        row.update({key: value for key, value in times.items() if key != "way"})
    save()
    print(pd.DataFrame(done).drop(columns="seconds").to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
