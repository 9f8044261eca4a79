"""The script that compares true half precision with its simulation: both steps, on small graphs and on the CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from helpers.errors import CourseError
from helpers.paths import REPO_ROOT

SCRIPT = REPO_ROOT / "scripts/verify_half_on_gpu.py"
BOXES = np.array([[[4, 4, 90, 80, 0.9], [20, 8, 60, 70, 0.8]]], np.float32)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("verify_half_on_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def detector(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """``dets`` by the given nodes from ``input``, fixed labels and masks."""
    weights = {
        "thousand": np.full(1, 1000, np.float32),
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
        "table": np.array([[3, 5]], np.int64),
        "both": np.array([0, 1], np.int64),
        "pixel": np.ones((1, 2, 1, 1), np.float32),
        "shape": np.array([1, 2, 3, 3], np.int64),
    }
    rest = [
        helper.make_node("Gather", ["table", "both"], ["labels"], name="labels", axis=1),
        helper.make_node("Expand", ["pixel", "shape"], ["masks"], name="masks"),
    ]
    graph = helper.make_graph(
        [*nodes, *rest],
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 2, 5])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, 2, 5]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 2]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, 2, 3, 3]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture(scope="module")
def prepared(script):
    """As exported, a box at 90 px overflows on the way; patched, it does not go there."""
    plain = detector(
        helper.make_node("Mul", ["input", "thousand"], ["far"], name="far"),
        helper.make_node("Mul", ["far", "zero"], ["masked"], name="masked"),
        helper.make_node("Div", ["far", "thousand"], ["dets"], name="back"),
    )
    patched = detector(helper.make_node("Mul", ["input", "one"], ["dets"], name="same"))
    return script.prepared_from({"plain": plain, "patched": patched}, {"input": BOXES}, {"picture": "none"})


def test_the_first_step_finds_the_plan_and_simulates_every_row(script, prepared):
    assert prepared.plan == ("far", "back")
    assert set(prepared.simulated) == {row.name for row in script.ROWS[1:]}
    as_exported = prepared.simulated["float16, as exported"]
    assert as_exported["not finite"] == [["far", True, False], ["masked", False, True], ["dets", True, False]]
    assert (as_exported["first inf"], as_exported["first NaN"]) == ("far", "masked")
    assert as_exported["chain"] == ["far", "masked"]
    assert not as_exported["detections"]["right"]
    assert prepared.simulated["float16, the plan's nodes in FP32"]["detections"]["right"]
    assert prepared.simulated["float16, patched, no FP32 node"]["not finite"] == []


def test_what_is_prepared_comes_back_as_it_was(script, prepared, tmp_path):
    path = script.save(prepared, tmp_path / "new" / "folder")
    assert path.parent == tmp_path / "new" / "folder"
    loaded = script.load(path.parent)
    for name, model in prepared.graphs.items():
        for ours, theirs in zip(loaded.graphs[name].graph.initializer, model.graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
        assert loaded.graphs[name].graph.node == model.graph.node
    for name, array in prepared.reference.items():
        np.testing.assert_array_equal(loaded.reference[name], array)
    np.testing.assert_array_equal(loaded.feeds["input"], BOXES)
    assert (loaded.plan, loaded.about) == (prepared.plan, prepared.about)
    assert loaded.simulated == prepared.simulated
    # Shared by both graphs, and written once.
    with np.load(path) as arrays:
        assert sum(name.startswith("weights/") for name in arrays.files) == 7


@pytest.fixture
def run(script, prepared, tmp_path, capsys):
    """Run the second step with what is prepared; gives the exit status, the record and what was shown."""

    def second_step(changed=prepared):
        script.save(changed, tmp_path)
        output = tmp_path / "record.json"
        status = script.main(
            ["--from", str(tmp_path), "--device", "cpu", "--output", str(output), "--commit", "abc"]
        )  # fmt: skip
        return status, json.loads(output.read_text()), capsys.readouterr().out

    return second_step


def test_the_second_step_bears_the_simulation_out(script, run):
    status, record, shown = run()
    assert status == 0
    assert all(record["checks"].values())
    assert len(record["checks"]) == 5
    assert record["device"] == "cpu"
    assert "dry run" in record["note"]
    assert record["commit"] == "abc"
    assert record["machine"]["torch"] == torch.__version__
    assert record["settings"]["torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction"] is True
    assert [row["row"] for row in record["rows"]] == [row.name for row in script.ROWS]
    as_exported = record["rows"][1]
    assert as_exported["not finite"] == [["far", True, False], ["masked", False, True], ["dets", True, False]]
    assert as_exported["detections"]["numbers of dets not finite"] == 3
    against = as_exported["against the simulation"]
    assert against["same first inf"]
    assert against["same first NaN"]
    assert not against["only real"]
    assert shown.index("ok") < shown.index("float16, as exported")
    assert shown.rstrip().splitlines()[-1].startswith("└")


def test_a_simulation_that_says_something_else_is_found(script, prepared, run):
    simulated = json.loads(json.dumps(prepared.simulated))
    row = simulated["float16, as exported"]
    row["first NaN"] = "elsewhere"
    row["not finite"] = [["far", True, True], ["elsewhere", False, True], ["masked", False, True]]
    changed = script.Prepared(**{**vars(prepared), "simulated": simulated})
    status, record, shown = run(changed)
    assert status == 1
    assert [claim for claim, holds in record["checks"].items() if not holds] == [
        "as exported, the first NaN is the simulation's"
    ]
    against = record["rows"][1]["against the simulation"]
    assert against["only real"] == ["dets"]
    assert against["only simulated"] == ["elsewhere"]
    assert against["in both, inf or NaN in one alone"] == ["far"]
    assert "FAILED  as exported, the first NaN" in shown
    assert "simulated: elsewhere" in shown


def test_wrong_detections_in_float32_are_found(script, prepared, run):
    reference = {**prepared.reference, "dets": prepared.reference["dets"] + np.float32(0.5)}
    status, record, _ = run(script.Prepared(**{**vars(prepared), "reference": reference}))
    assert status == 1
    assert not record["checks"]["FP32 agrees with ONNX Runtime by the parity contract"]


def test_a_row_that_fails_does_not_cost_the_others(script, prepared, run):
    graphs = {**prepared.graphs, "patched": detector(helper.make_node("Erf", ["input"], ["dets"], name="erf"))}
    status, record, shown = run(script.Prepared(**{**vars(prepared), "graphs": graphs}))
    assert status == 1
    assert ["error" in row for row in record["rows"]] == [False, False, False, True, False, False, True]
    assert [claim for claim, holds in record["checks"].items() if not holds] == [
        "patched, every tensor is finite and the detections are right"
    ]
    assert "FAILED: TorchGraphError" in shown


def test_the_second_step_runs_on_a_machine_with_little_more_than_torch(script, prepared, tmp_path):
    script.save(prepared, tmp_path)
    absent = ("mmdet", "mmcv", "onnxruntime", "onnxsim", "cv2", "torchvision", "pandas", "pycocotools", "skimage")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({absent!r}));"
        f"sys.argv = ['script', '--from', {str(tmp_path)!r}, '--device', 'cpu', '--output', {str(tmp_path / 'r')!r}];"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r").read_text())["checks"]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_folder_without_preparation_and_a_ruined_file_are_named(script, prepared, tmp_path):
    with pytest.raises(script.VerifyError, match=r"there is no prepared\.npz in .*--prepare"):
        script.load(tmp_path)
    path = script.save(prepared, tmp_path)
    whole = path.read_bytes()
    for ruined in (whole[: len(whole) // 2], b"", b"no such thing"):
        path.write_bytes(ruined)
        with pytest.raises(script.VerifyError, match="truncated or was not made by --prepare"):
            script.load(tmp_path)
    np.savez(path, something=np.zeros(3))
    with pytest.raises(script.VerifyError, match="truncated or was not made by --prepare"):
        script.load(tmp_path)


def test_another_version_of_the_file_is_refused(script, prepared, tmp_path, monkeypatch):
    script.save(prepared, tmp_path)
    monkeypatch.setattr(script, "FORMAT", script.FORMAT + 1)
    with pytest.raises(script.VerifyError, match="made by another version"):
        script.load(tmp_path)


def test_a_missing_gpu_is_named_and_no_record_written(script, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script.save(prepared, tmp_path)
    with pytest.raises(CourseError, match="no GPU here"):
        script.main(["--from", str(tmp_path), "--output", str(tmp_path / "record.json")])
    assert not (tmp_path / "record.json").exists()


def test_exporting_without_mmdet_names_what_is_missing(script, monkeypatch):
    import helpers.export as package

    monkeypatch.delitem(sys.modules, "helpers.export.exporter", raising=False)
    monkeypatch.delattr(package, "exporter", raising=False)
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    with pytest.raises(script.VerifyError, match=r"no onnxsim.*--from"):
        script.exported_graphs()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of the arguments --prepare --from is required"),
        (["--prepare", "a", "--from", "b"], "not allowed with"),
        (["--from", "a"], "--from needs --output"),
        (["--from", "a", "--output", "b", "--repeats", "0"], "at least 1"),
        (["--from", "a", "--output", "b", "--device", "tpu"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_explained(script, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        script.main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_errors_end_the_command_with_one_sentence(tmp_path):
    command = [sys.executable, str(SCRIPT), "--from", str(tmp_path), "--device", "cpu", "--output", "none.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("there is no prepared.npz")
    assert "Traceback" not in done.stderr
