"""How often the search names the node that has a planted fault: a table, and a record.

    python scripts/measure_search.py evidence/search.json --each 14

Exports the embedded model for an input of 256 x 320, lightened to 200 proposals and 20 detections, records PyTorch on a
piece of a demo picture, plants one fault after another in the exported graph (helpers.compare.planted) and searches
each. A fault counts if it changes the detections of the picture, that is, breaks the parity contract with the sound
graph or stops the runtime. A finding is "node" if it names the changed node, "neighbour" if it names one that this
reads from or that reads from it, "wrong" if it names another, and "missed" if there is none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
import pandas as pd

from helpers import evidence, paths
from helpers.compare.parity import compare
from helpers.compare.planted import Fault, planted_faults, spread
from helpers.compare.search import search
from helpers.detector import inference
from helpers.detector.models import lighten, load_detector
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.errors import CourseError
from helpers.export.exporter import export_onnx
from helpers.graph.detect import detect_prepared
from helpers.graph.file import load_onnx
from helpers.graph.index import GraphIndex
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import RunnerError
from scripts.ap_study import from_one

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

INPUT = (256, 320)


class Study:
    """A correct graph, and what is known of one picture in it, ready for faults.

    Raises:
        CourseError: the search finds something wrong with the correct graph.
    """

    def __init__(self, detector: BaseDetector, model: onnx.ModelProto, prepared: NetworkInput) -> None:
        self.detector = detector
        self.index = GraphIndex(model)
        self.prepared = prepared
        self.sound = detect_prepared(OnnxRunner(model), prepared)
        report = search(detector, model, prepared)
        if report.found:
            raise CourseError(f"the correct graph has a finding: {report.found}", "mend the search first")
        self.recordings = report.recordings
        self.faults = list(planted_faults(self.index))

    def verdict(self, fault: Fault) -> dict[str, str]:
        """The row of one fault: what was planted, and what the search said."""
        wrong = fault.plant(self.index.model)
        row = {"kind": fault.kind, "operator": fault.operator, "what": fault.what, "node": fault.node}
        try:
            harmless = compare(self.sound, detect_prepared(OnnxRunner(wrong), self.prepared)).agrees
        except RunnerError:
            harmless = False
        if harmless:
            return {**row, "verdict": "harmless", "named": ""}
        found = search(self.detector, wrong, self.prepared, recordings=self.recordings).found
        node = next(node for node in self.index.nodes if node.name == fault.node)
        near = {other.name for name in node.input if (other := self.index.producer.get(name)) is not None}
        near |= {reader.name for name in node.output for reader in self.index.readers(name)}
        if found is None:
            verdict = "missed"
        elif found.node == fault.node:
            verdict = "node"
        else:
            verdict = "neighbour" if found.node in near else "wrong"
        return {**row, "verdict": verdict, "named": found.node if found else ""}


def study(pictures: Sequence[str] = ("crowd", "huge", "twins", "shelf")) -> Study:
    """The study of the embedded model, on the left part of the first of these demo pictures on which the graph agrees
    with PyTorch. On `crowd` it need not: three overlapping proposals have the same score, 1 - 2**-22, and which of
    them NMS keeps is a matter of the sigmoid's last digit.

    Raises:
        CourseError: it agrees on none of them.
    """
    detector = lighten(load_detector("emoji"))
    with tempfile.TemporaryDirectory() as folder:
        model = load_onnx(export_onnx(detector, Path(folder) / "x.onnx", input_shape=(1, 3, *INPUT)))
    runner = OnnxRunner(model)
    for picture in pictures:
        whole = read_picture(paths.DATA / "demo" / f"{picture}.jpg")
        prepared = prepare(whole[:, : whole.shape[0] * INPUT[1] // INPUT[0]], INPUT)
        if compare(
            inference.detect_prepared(detector, prepared, rescale=False), detect_prepared(runner, prepared)
        ).agrees:
            print(f"on {picture}", flush=True)
            return Study(detector, model, prepared)
    raise CourseError(f"the graph agrees with PyTorch on none of {', '.join(pictures)}", "mend the export first")


def summary(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Verdicts by kind of fault, of those that change the detections."""
    table = pd.DataFrame([row for row in rows if row["verdict"] != "harmless"], columns=["kind", "verdict"])
    return pd.crosstab(table["kind"], table["verdict"], margins=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--each", type=from_one, default=2, help="faults of each change of each operator (default: 2)")
    parser.add_argument(
        "--but", type=from_one, nargs="*", default=(), help="leave out those that each of these --each take: known ones"
    )
    arguments = parser.parse_args(words)
    of_model = study()
    known = {id(fault) for each in arguments.but for fault in spread(of_model.faults, each)}
    chosen = [fault for fault in spread(of_model.faults, arguments.each) if id(fault) not in known]
    rows: list[dict[str, str]] = []
    for fault in chosen:
        rows.append(of_model.verdict(fault))
        print(*rows[-1].values(), sep=", ", flush=True)
    record = evidence.head(f"planted faults in the light embedded model's graph at {INPUT[0]} x {INPUT[1]}")
    evidence.save(arguments.output, {**record, "possible": len(of_model.faults), "chosen": len(chosen), "rows": rows})
    print(summary(rows).to_string())


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
