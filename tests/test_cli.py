"""The command: exit codes, one sentence for what can be put right, and the three tools that need no mmdet."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from helpers import paths
from helpers.cli import main
from helpers.deploy import proof
from helpers.graph.file import load_onnx
from helpers.graph.runner import RunnerError


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """(graph, feeds): detections that pass through numbers beyond half precision's range."""
    folder = tmp_path_factory.mktemp("cli")
    tensors = [("large", np.float32(1e5)), ("small", np.float32(1e-5))]
    nodes = [
        helper.make_node("Mul", ["input", "large"], ["up"], name="up"),
        helper.make_node("Mul", ["up", "small"], ["dets"], name="down"),
        helper.make_node("ReduceMax", ["input"], ["most"], axes=[2], keepdims=0, name="most"),
        helper.make_node("Cast", ["most"], ["labels"], to=TensorProto.INT64, name="labels"),
    ]
    graph = helper.make_graph(
        nodes,
        "detections",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 2, 5))],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, (1, 2, 5)),
            helper.make_tensor_value_info("labels", TensorProto.INT64, (1, 2)),
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.save(model, folder / "g.onnx")
    np.savez(folder / "feeds.npz", input=np.array([[[1, 2, 30, 40, 0.9], [5, 6, 20, 30, 0.8]]], np.float32))
    return folder / "g.onnx", folder / "feeds.npz"


WITHOUT = """
import sys
for name in ("mmdet", "mmcv", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError
from click.testing import CliRunner
from helpers.cli import main
for arguments in (["hunt"], ["ranges"], ["plan", "--output", sys.argv[3]]):
    result = CliRunner().invoke(main, [arguments[0], sys.argv[1], sys.argv[2], *arguments[1:], "--json"])
    print(arguments[0], result.exit_code, " ".join(result.stdout.split()))
"""


def test_hunt_ranges_and_plan_need_no_mmdet(overflowing, tmp_path):
    command = [sys.executable, "-c", WITHOUT, *map(str, overflowing), str(tmp_path / "plan.json")]
    done = subprocess.run(command, cwd=paths.REPO_ROOT, capture_output=True, text=True, check=True)
    codes = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert codes == {"hunt": "1", "ranges": "1", "plan": "0"}, done.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [node["name"] for node in plan["nodes"]] == ["up", "down"]
    assert '"node": "up"' in done.stdout.splitlines()[0]


def test_what_is_finite_exits_with_0(overflowing, tmp_path):
    graph = load_onnx(overflowing[0])
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(10), "large"))
    onnx.save(graph, tmp_path / "fine.onnx")
    for tool in ("hunt", "ranges"):
        assert call(tool, tmp_path / "fine.onnx", overflowing[1]).exit_code == 0


@pytest.mark.parametrize("tool", ["hunt", "ranges"])
def test_bad_files_are_one_sentence(overflowing, tmp_path, tool):
    graph, feeds = overflowing
    objects = tmp_path / "objects.npz"
    np.savez(objects, input=np.array([{}], object))
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "cut.npz").write_bytes(feeds.read_bytes()[:100])
    whole = bytearray(feeds.read_bytes())
    whole[150] ^= 1  # of the array
    (tmp_path / "flipped.npz").write_bytes(whole)
    os.mkfifo(tmp_path / "pipe")
    for arguments, words in (
        ((tmp_path / "none.onnx", feeds), "none.onnx"),
        ((graph, tmp_path / "none.npz"), "none.npz cannot be read"),
        ((graph, tmp_path / "text.npz"), "text.npz cannot be read"),
        ((graph, objects), "objects.npz cannot be read (Object arrays cannot be loaded when allow_pickle=False): save"),
        ((graph, tmp_path / "cut.npz"), "cut.npz cannot be read (File is not a zip file)"),
        ((graph, tmp_path / "flipped.npz"), "flipped.npz cannot be read (Bad CRC-32"),
        ((graph, tmp_path / "pipe"), "pipe cannot be read ([Errno 22] not a regular file"),
        ((tmp_path / "pipe", feeds), "pipe (not a regular file)"),
        ((graph,), "Missing argument"),
    ):
        result = call(tool, *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Traceback" not in result.output


def test_help_says_what_the_exit_codes_mean():
    for tool in ("prove", "predict", "search", "hunt", "plan", "ranges"):
        result = call(tool, "--help")
        assert result.exit_code == 0
        assert "Exit codes: 0" in " ".join(result.output.split())


def config_of(tmp_path, own_files, text):
    file = tmp_path / "changed.py"
    file.write_text(f"_base_ = {str(own_files[0])!r}\n{text}\n")
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = dict(_delete_=True, type='RetinaNet')", "model.type = RetinaNet is not exported"),
        ("model = dict(_delete_=True, type='DETR')", "model.type = DETR is not exported"),
        ("custom_imports = dict(imports=['no_such_module'])", "no_such_module"),
        ("model = dict(roi_head=dict(type='PointRendRoIHead'))", "PointRendRoIHead"),
        ("model = dict(", "cannot be read"),
    ],
)
def test_models_that_are_not_supported_are_one_sentence(tmp_path, own_files, text, words):
    config = config_of(tmp_path, own_files, text)
    result = call("prove", "--config", config, "--checkpoint", own_files[1], "--output", tmp_path / "out")
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    assert words in result.stderr
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_refusal_is_all_that_is_printed(tmp_path, own_files):
    config = config_of(tmp_path, own_files, "model = dict(_delete_=True, type='RetinaNet')")
    files = ["--config", config, "--checkpoint", own_files[1], "--output", tmp_path / "out"]
    command = [sys.executable, "-m", "helpers.cli", "prove", *map(str, files)]
    done = subprocess.run(command, cwd=paths.REPO_ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: model.type = RetinaNet is not exported")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--config": "none.py"}, "there is no file none.py"),
        ({"--checkpoint": "none.pth"}, "there is no file none.pth"),
        ({"--images": "none.jpg"}, "no picture or folder none.jpg"),
        ({"--input-shape": "800"}, "no height and width"),
        ({"--flavour": "other"}, "'other' is not one of"),
        ({"--annotations": "none.json"}, "none.json"),
        ({"--without": "p99"}, "p99"),
    ],
)
def test_bad_arguments_of_prove_exit_with_2(tmp_path, own_files, changed, words):
    options = {"--config": own_files[0], "--checkpoint": own_files[1], "--output": tmp_path / "out", **changed}
    result = call("prove", *(word for pair in options.items() for word in pair))
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    assert words in result.stderr


@pytest.fixture(scope="module")
def proven(own_files, tmp_path_factory):
    """(the result, its folder) of a proof on two pictures, batches among them."""
    folder = tmp_path_factory.mktemp("proof") / "out"
    images = [word for name in ("crowd", "tiny") for word in ("--images", paths.DATA / "demo" / f"{name}.jpg")]
    arguments = ["--config", own_files[0], "--checkpoint", own_files[1], "--batch", 2, "--output", folder]
    return call("prove", *arguments, *images, "--json"), folder, arguments


def test_a_proof_is_a_folder(proven):
    result, folder, _ = proven
    assert result.exit_code == 0, result.output
    record = json.loads((folder / "parity.json").read_text())
    assert json.loads(result.stdout) == record
    assert record["agrees"] is True
    assert [row["as the config's pipeline"] for row in record["rows"][:2]] == [True, True]
    assert len(record["rows"]) == 4  # each picture, and each in the batch
    assert all(row["matched"] for row in record["rows"])
    written = json.loads((folder / "preprocessing.json").read_text())
    assert written["classes"] == ["apple", "pear", "plum"]
    assert (written["height"], written["width"], written["to_rgb"]) == (96, 160, False)
    assert {row["verdict"] for row in json.loads((folder / "settings.json").read_text())} == {"exported"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "http" not in page


def test_a_proof_is_not_exported_twice(proven):
    _, folder, arguments = proven
    before = (folder / "model.onnx").stat().st_mtime_ns
    result = call("prove", *arguments, "--images", paths.DATA / "demo" / "crowd.jpg")
    assert result.exit_code == 0
    assert "making model.onnx" not in result.output
    assert (folder / "model.onnx").stat().st_mtime_ns == before


def test_a_graph_that_stops_is_searched_too(own_files, tmp_path, monkeypatch):
    def stops(*_, **__):
        raise RunnerError("ONNX Runtime stopped inside the graph", "check the input")

    monkeypatch.setattr(proof.detect, "detect_prepared", stops)

    def searched(_, file, __):
        assert file.name == "searched.onnx"  # not the lean one
        return "/Mul (Mul), made by head.py:7; its inputs agree: x"

    monkeypatch.setattr(proof, "_search", searched)
    arguments = ["--config", own_files[0], "--checkpoint", own_files[1]]
    result = call("prove", *arguments, "--images", paths.DATA / "demo" / "crowd.jpg", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "stops on crowd.jpg (ONNX Runtime stopped inside the graph); /Mul (Mul), made by head.py:7" in result.stderr


@pytest.mark.slow
def test_a_disagreement_is_searched(own_files, tmp_path):
    """Without the patch that clips to the picture; a portrait one shows it. Chapter 09 shows the same."""
    import cv2

    picture = cv2.imread(str(paths.DATA / "demo" / "crowd.jpg"))
    cv2.imwrite(str(tmp_path / "portrait.png"), picture[:, :500])
    arguments = ["--config", own_files[0], "--checkpoint", own_files[1], "--images", tmp_path / "portrait.png"]
    result = call("prove", *arguments, "--without", "p10", "--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    record = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert record["agrees"] is False
    assert "delta_xywh_bbox_coder.py" in record["first difference"]
    assert record["first difference"] in result.stderr
