"""The script that runs other tools for half precision: its counts on a toy graph, and what chapter 07 reads of it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import onnx
import pytest

from helpers import evidence, paths
from helpers.detector import evaluation
from helpers.errors import CourseError
from helpers.half_precision.agreement import Agreement
from helpers.half_precision.plan import cast_islands
from scripts import measure_autocast as script

TOY = """<ir_version: 8, opset_import: ["" : 16]>
g (float[1,2,5] x) => (float[1,2,5] dets, int64[1,2] labels) <int32[1,2] zeros = {0, 0}> {
    two = Constant <value = float {2}> ()
    twice = Mul (x, two)
    again = Add (twice, two)
    dets = Sub (again, two)
    labels = Cast <to = 7> (zeros)
}"""

DETECTOR = """<ir_version: 8, opset_import: ["" : 16]>
g (float[1,3,64,96] input) => (float[1,1,5] dets, int64[1,1] labels)
<float[1,1,5] boxes = {5, 5, 10, 10, 0.3}, float[1] two = {2}, int32[1,1] zeros = {0}> {
    [dets] dets = Mul (boxes, two)
    labels = Cast <to = 7> (zeros)
}"""


@pytest.fixture
def toy():
    model = onnx.parser.parse_model(TOY)
    for node in model.graph.node:
        node.name = f"/{node.output[0]}"
    return model


def test_help_needs_no_tool():
    program = paths.REPO_ROOT / "scripts" / "measure_autocast.py"
    done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True, check=True)
    assert 'pip install "nvidia-modelopt[onnx]==' in done.stdout


def test_nodes_in_fp32_and_casts_are_counted(toy):
    assert (script.casts_added(toy, toy), script.kept_in_fp32(toy, toy)) == (0, ["/twice", "/again", "/dets"])
    # Of x to half, around the kept node, and of the output back.
    converted = cast_islands(toy, ["/again"])
    assert script.casts_added(toy, converted) == sum(node.op_type == "Cast" for node in converted.graph.node) - 1 == 4
    assert script.kept_in_fp32(toy, converted) == ["/again"]
    assert script.kept_in_fp32(toy, cast_islands(toy)) == []


def test_a_graph_that_is_refused_ends_the_search_or_counts_as_a_failed_attempt(toy, tmp_path, monkeypatch):
    from onnxconverter_common import auto_mixed_precision as tool

    onnx.save(toy, tmp_path / "toy.onnx")
    np.savez(tmp_path / "feeds.npz", x=np.array([[[10, 10, 60, 60, 0.45], [0, 0, 20, 20, 0.4]]], np.float32))
    files = (tmp_path / "toy.onnx", tmp_path / "feeds.npz")
    found, about = script.mixed(*files, go_on=False)
    assert script.kept_in_fp32(toy, found) == []
    assert about == {"attempts": 2, "attempts refused by ONNX Runtime": 0}

    run = tool.get_tensor_values_using_ort

    def refusing(model, feeds, outputs=None, options=None):
        if outputs is None and "/again" not in script.kept_in_fp32(toy, model):
            raise RuntimeError("Type Error")
        return run(model, feeds, outputs, options)

    monkeypatch.setattr(tool, "get_tensor_values_using_ort", refusing)
    assert script.mixed(*files, go_on=False) == (
        None,
        {"refused": "Type Error", "attempts": 1, "attempts refused by ONNX Runtime": 1},
    )
    found, about = script.mixed(*files, go_on=True)
    assert script.kept_in_fp32(toy, found) == ["/again"]
    assert about["attempts refused by ONNX Runtime"] > 1
    for patience, kept in ((0, None), (about["attempts"], ["/again"])):
        seconds = itertools.count()
        monkeypatch.setattr(script.time, "perf_counter", lambda seconds=seconds: next(seconds))
        stopped, about = script.mixed(*files, go_on=True, patience=patience)
        assert about["stopped after, s"] == patience
        assert (stopped and script.kept_in_fp32(toy, stopped)) == kept


def test_ap_is_of_the_simulation_with_the_kept_nodes(monkeypatch):
    model = onnx.parser.parse_model(DETECTOR)
    scenes = evaluation.load_set().head(1)
    found = {}

    def evaluate(dataset, detect, *, description):
        assert dataset is scenes
        ((_, picture),) = dataset.pictures()
        found[description] = detect(picture).scores.tolist()
        return evaluation.AveragePrecision(0.12344, 0.5, 0, 0, 1)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    for kept in ([], ["dets"]):
        assert script.simulated_ap(model, kept, scenes) == {"box AP": 0.1234, "mask AP": 0.5}
    half, single = (float(2 * np.float32(kind(0.3))) for kind in (np.float16, np.float32))
    assert found == {"0 nodes in FP32": [half], "1 nodes in FP32": [single]}


def test_steps_out_of_order_are_one_sentence(tmp_path):
    with pytest.raises(CourseError, match="run the run step first"):
        script.main(["record", str(tmp_path), "--output", str(tmp_path / "record.json")])
    with pytest.raises(SystemExit, match=r"modelopt is not installed here: this step's environment .* --help"):
        script.main(["run", str(tmp_path)])
    (tmp_path / "full.onnx").touch()
    with pytest.raises(CourseError, match="is not empty: name a new folder"):
        script.main(["prepare", str(tmp_path)])


@pytest.mark.parametrize("masks", script.MASKS)
def test_the_record_has_a_row_for_each_way_and_counts_what_it_judged(masks):
    rows = {row["way"]: row for row in evidence.load("autocast_cpu", ["rows"])["rows"] if row["graph"] == masks}
    mixed = ("automatic mixed precision", "automatic mixed precision, going on")
    own = ("minimal plan", "minimal plan and what is still infinite", "patches, no island")
    assert set(rows) == {"AutoCast", *mixed, *own}
    for way, row in rows.items():
        assert {"nodes", "search, s", "of the processor, s"} <= row.keys()
        if "nodes in FP32" in row:
            same = script.described(Agreement(1, 0, 0.0, 0)).keys()
            assert row["in ONNX Runtime"].keys() == same
            assert row["simulated"].keys() == same | ({"box AP", "mask AP"} if masks == "full" else set())
            assert row["casts added"] > 0
        else:
            assert way in mixed
            assert row["attempts refused by ONNX Runtime"] == row["attempts"]
