"""Many pictures: lists, what is kept and done again, COCO's form; with Ray where it is installed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from pycocotools import mask as rle
from pycocotools.coco import COCO

from helpers import artifacts, paths
from helpers.artifacts import DiskSpaceError, InUseError
from helpers.cli import main
from helpers.deploy import client, predict
from helpers.deploy.predict import PredictError
from helpers.detector.preprocess import read_picture

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -r requirements-ray.txt"
)
CLASSES = ["apple", "pear"]


def graph(batch):
    """One detection, whose score is the sigmoid of the picture's mean, and a row without one."""
    ramp = np.linspace(0, 1, 28, dtype=np.float32) * np.ones((1, 2, 28, 1), np.float32)
    tensors = {
        "row": np.array([[[0, 0, 0, 0, 1], [0] * 5]], np.float32),
        "box": np.array([[[2, 3, 40, 50, 0], [0] * 5]], np.float32),
        "zero": np.zeros((1, 2), np.float32),
        "kind": np.array([[1, 0]], np.float32),
        "ramp": ramp,
        "zeros": np.zeros_like(ramp),
        **{f"to{rank}": np.array([-1] + [1] * (rank - 1), np.int64) for rank in (2, 3, 4)},
    }
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3]),
        helper.make_node("Sigmoid", ["mean"], ["s"]),
        *(helper.make_node("Reshape", ["s", f"to{rank}"], [f"s{rank}"]) for rank in (2, 3, 4)),
        helper.make_node("Mul", ["s3", "row"], ["score"]),
        helper.make_node("Add", ["score", "box"], ["dets"]),
        helper.make_node("Mul", ["s2", "zero"], ["z2"]),
        helper.make_node("Add", ["z2", "kind"], ["label"]),
        helper.make_node("Cast", ["label"], ["labels"], to=TensorProto.INT64),
        helper.make_node("Mul", ["s4", "zeros"], ["z4"]),
        helper.make_node("Add", ["z4", "ramp"], ["masks"]),
    ]
    outputs = {"dets": (batch, 2, 5), "labels": (batch, 2), "masks": (batch, 2, 28, 28)}
    made = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, 3, 64, 96))],
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def make_bundle(folder, batch=1):
    folder.mkdir()
    onnx.save(graph(batch), folder / "model.onnx")
    about = {
        "format": client.FORMAT,
        "model": {"file": "model.onnx", "opset": 16},
        "preprocessing": {
            "input_shape": [64, 96],
            "to_rgb": True,
            "mean": [120.0] * 3,
            "std": [60.0] * 3,
            "padding": 0,
            "longest": None,
            "stretched": None,
        },
        "classes": CLASSES,
        "thresholds": {"mask": 0.5},
    }
    (folder / "bundle.json").write_text(json.dumps(about))
    sums = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("predict") / "bundle")


@pytest.fixture
def pictures(tmp_path):
    """Six pictures, one of them in a folder below, one damaged, one with a name that is no UTF-8."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(["0.png", "1.PNG", "below/2.png", "3.png"]):
        cv2.imwrite(str(folder / name), np.full((80 + number, 120, 3), 50 * number, np.uint8))
    (folder / "damaged.jpg").write_bytes(b"no picture")
    (folder / os.fsdecode(b"n\xe9.png")).write_bytes((folder / "3.png").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    return folder


def plain(bundle, source, folder, batch=2, stop=None, drop=None, **options):
    """`predict` with a loop in Ray's place, interrupted after ``stop`` batches, which loses the picture ``drop``."""

    def loop(bundle, rows, _workers, threads, batch, _address):
        worker = predict.Predictor(str(bundle), threads)
        for number, start in enumerate(range(0, len(rows), batch)):
            if number == stop:
                raise KeyboardInterrupt
            given = [row for row in rows[start : start + batch] if json.loads(row)[0] != drop]
            yield worker({"picture": given})["line"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_batches", loop)
        return predict.predict(bundle, source, folder, batch=batch, **options)


def lines(folder):
    return [json.loads(line) for part in sorted((folder / "parts").iterdir()) for line in part.read_text().splitlines()]


def test_a_folder_and_a_list_name_the_same_pictures(pictures, tmp_path):
    found = predict.list_pictures(pictures)
    assert list(found) == sorted(["0.png", "1.PNG", "3.png", "below/2.png", "damaged.jpg", os.fsdecode(b"n\xe9.png")])
    assert all(path.is_absolute() and path.is_file() for path in found.values())
    (tmp_path / "list.txt").write_text(f"pictures/0.png\n\n  {pictures}/3.png\npictures/0.png\nnone.png\n")
    listed = predict.list_pictures(tmp_path / "list.txt")
    assert list(listed.values()) == [pictures / "0.png", pictures / "3.png", tmp_path / "none.png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "cannot read .*none"),
        ("pictures/0.png", "is no list of pictures"),
        ("empty", "no picture in .*empty: put one there"),
        ("empty.txt", "no picture in .*empty.txt: write a path a line"),
    ],
)
def test_no_pictures_are_one_sentence(pictures, tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(PredictError, match=words):
        predict.list_pictures(tmp_path / name)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_results_are_what_the_client_finds_in_cocos_form(pictures, tmp_path, batch):
    bundle = make_bundle(tmp_path / "bundle", batch)
    assert plain(bundle, pictures, tmp_path / "out", batch=4) == predict.Summary(5, 1)
    failure = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert [(one["file_name"], "cannot" in one["error"] or "can be" in one["error"]) for one in failure] == [
        ("damaged.jpg", True)
    ]
    found = COCO(tmp_path / "out" / "coco.json")
    assert {one["name"] for one in found.cats.values()} == set(CLASSES)
    detector = client.Detector(bundle)
    assert len(found.anns) == len(found.imgs) == 5
    for image in found.imgs.values():
        expected = detector.detect(read_picture(pictures / image["file_name"]))
        (entry,) = found.imgToAnns[image["id"]]
        x, y, width, height = entry["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], expected.boxes[0], rtol=1e-6)
        assert found.cats[entry["category_id"]]["name"] == CLASSES[expected.labels[0]] == "pear"
        assert entry["score"] == pytest.approx(expected.scores[0], rel=1e-6)
        assert (image["height"], image["width"]) == expected.masks.shape[1:]
        np.testing.assert_array_equal(rle.decode(entry["segmentation"]), expected.masks[0])
        assert 0 < expected.masks.sum() < expected.masks.size
    assert len({entry["score"] for entry in found.anns.values()}) == 4  # and the name that is no UTF-8 is 3 again


def test_an_interrupted_run_goes_on_and_does_no_picture_twice(bundle, pictures, tmp_path):
    plain(bundle, pictures, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        plain(bundle, pictures, tmp_path / "out", stop=2)
    assert len(lines(tmp_path / "out")) == 4
    # What a killed process leaves behind.
    (tmp_path / "out" / "parts" / ".course-part-9.jsonl").write_text('{"picture": "0.')
    assert plain(bundle, pictures, tmp_path / "out", batch=1) == predict.Summary(5, 1)
    names = [record["picture"] for record in lines(tmp_path / "out")]
    assert sorted(names) == sorted(predict.list_pictures(pictures))
    assert (tmp_path / "out" / "coco.json").read_text() == (tmp_path / "whole" / "coco.json").read_text()


def test_a_picture_that_could_not_be_read_is_done_again_when_asked(bundle, pictures, tmp_path):
    plain(bundle, pictures, tmp_path / "out")
    (pictures / "damaged.jpg").write_bytes((pictures / "0.png").read_bytes())
    assert plain(bundle, pictures, tmp_path / "out") == predict.Summary(5, 1)
    assert len(lines(tmp_path / "out")) == 6
    assert plain(bundle, pictures, tmp_path / "out", retry=True) == predict.Summary(6, 0)
    assert [record["picture"] for record in lines(tmp_path / "out")[6:]] == ["damaged.jpg"]
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == []


def test_a_lost_picture_is_noticed(bundle, pictures, tmp_path):
    with pytest.raises(PredictError, match="1 pictures have no result: run the same command again"):
        plain(bundle, pictures, tmp_path / "out", drop="3.png")
    assert not (tmp_path / "out" / "coco.json").exists()
    assert plain(bundle, pictures, tmp_path / "out") == predict.Summary(5, 1)


def test_a_full_disk_is_one_sentence_and_what_was_kept_stays(bundle, pictures, tmp_path, monkeypatch):
    real = artifacts.write_text

    def full(path, text):
        if path.name == "00000002.jsonl":
            raise DiskSpaceError("no disk space left", "free some space")
        real(path, text)

    monkeypatch.setattr(artifacts, "write_text", full)
    with pytest.raises(DiskSpaceError):
        plain(bundle, pictures, tmp_path / "out")
    monkeypatch.undo()
    kept = lines(tmp_path / "out")
    assert len(kept) == 2
    assert plain(bundle, pictures, tmp_path / "out") == predict.Summary(5, 1)
    assert lines(tmp_path / "out")[:2] == kept


def test_two_runs_into_one_folder_are_refused(bundle, pictures, tmp_path):
    with predict.open_run(tmp_path / "out", bundle, pictures):
        with pytest.raises(InUseError, match="out is in use by another process"):
            plain(bundle, pictures, tmp_path / "out")
    plain(bundle, pictures, tmp_path / "out")


def test_a_folder_of_another_run_or_of_something_else_is_refused(bundle, pictures, tmp_path):
    plain(bundle, pictures, tmp_path / "out")
    other = make_bundle(tmp_path / "other", "batch")
    with pytest.raises(PredictError, match="of other pictures, or by another bundle"):
        plain(other, pictures, tmp_path / "out")
    with pytest.raises(PredictError, match="of other pictures, or by another bundle"):
        plain(bundle, pictures / "below", tmp_path / "out")
    with pytest.raises(PredictError, match="holds something else"):
        plain(bundle, pictures, pictures)
    assert not (pictures / ".lock").exists()
    (other / "model.onnx").write_bytes(b"changed")
    with pytest.raises(PredictError, match="model.onnx has changed since .*: copy it again"):
        plain(other, pictures, tmp_path / "new")
    with pytest.raises(PredictError, match="SHA256SUMS is missing"):
        plain(pictures, pictures, tmp_path / "new")


def test_a_damaged_part_is_named(bundle, pictures, tmp_path):
    plain(bundle, pictures, tmp_path / "out")
    part = tmp_path / "out" / "parts" / "00000002.jsonl"
    for damage in (part.read_bytes()[:-20], b"[]\n", b"1\n", b"{}\n", b"\xff\n"):
        part.write_bytes(damage)
        with pytest.raises(PredictError, match="00000002.jsonl is damaged: delete it"):
            plain(bundle, pictures, tmp_path / "out")
    part.unlink()
    assert plain(bundle, pictures, tmp_path / "out") == predict.Summary(5, 1)


def command(*words):
    return CliRunner().invoke(main, ["predict", *map(str, words)])


def test_without_ray_it_is_said_what_to_install(bundle, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it raises ImportError
    result = command(bundle, pictures, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: Ray is not installed: pip install -r requirements-ray.txt."
    # Nothing is left to be done by Ray.
    plain(bundle, pictures, tmp_path / "out")
    result = command(bundle, pictures, "--output", tmp_path / "out", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"done": 5, "failed": 1})


WITHOUT = """
import sys
for name in ("torch", "mmdet", "mmcv", "torchvision", "ray"):
    sys.modules[name] = None  # importing it raises ImportError
import helpers.deploy.predict
"""


def test_it_needs_no_mmdet():
    subprocess.run([sys.executable, "-c", WITHOUT], cwd=paths.REPO_ROOT, check=True)


class Unlucky(predict.Predictor):
    """Dies once, in the middle of a batch."""

    def __call__(self, batch):
        for name, path in map(json.loads, batch["picture"]):
            if name == "07.png":
                with contextlib.suppress(FileExistsError):
                    (Path(path).parents[1] / "died").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


class Stops(predict.Predictor):
    def __call__(self, batch):
        raise RuntimeError("the graph stops here\nand more")


def with_worker(monkeypatch, worker):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(predict, "Predictor", worker)


def many(folder, number, shape=(80, 120, 3)):
    folder.mkdir()
    for i in range(number):
        file = folder / f"{i:02}.png"
        if i:
            file.hardlink_to(folder / "00.png")
        else:
            cv2.imwrite(str(file), np.full(shape, 90, np.uint8))
    return folder


@with_ray
def test_a_killed_worker_loses_nothing(bundle, tmp_path, monkeypatch, capfd):
    source = many(tmp_path / "pictures", 30)
    (source / "07.png").unlink()
    (source / "07.png").write_bytes((source / "00.png").read_bytes())
    (source / "08.png").unlink()
    (source / "08.png").write_bytes(b"no picture")
    plain(bundle, source, tmp_path / "plain")
    with_worker(monkeypatch, Unlucky)
    assert predict.predict(bundle, source, tmp_path / "out", workers=2, batch=4) == predict.Summary(29, 1)
    assert (tmp_path / "died").exists()
    names = [record["picture"] for record in lines(tmp_path / "out")]
    assert sorted(names) == sorted(predict.list_pictures(source))
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 8
    out, expected = (COCO(tmp_path / name / "coco.json").imgToAnns for name in ("out", "plain"))
    assert {image: [{**one, "id": 0} for one in found] for image, found in out.items()} == {
        image: [{**one, "id": 0} for one in found] for image, found in expected.items()
    }
    said = capfd.readouterr()
    assert "ray" not in said.out.lower()
    assert "ray" not in said.err.lower()


@with_ray
def test_what_stops_a_worker_is_one_sentence(bundle, tmp_path, monkeypatch):
    with_worker(monkeypatch, Stops)
    with pytest.raises(PredictError, match=r"^Ray stopped \(RuntimeError: the graph stops here\): what was finished"):
        predict.predict(bundle, many(tmp_path / "pictures", 2), tmp_path / "out")


@with_ray
def test_an_interrupt_and_a_second_call_of_the_command(bundle, tmp_path):
    source, output = many(tmp_path / "pictures", 16, (3000, 3000, 3)), tmp_path / "out"
    words = [sys.executable, "-m", "helpers.cli", "predict", str(bundle), str(source), "--output", str(output)]
    words += ["--batch", "1"]
    # A group of its own, all of which gets the signal, as from a terminal; whoever runs the tests may ignore it.
    process = subprocess.Popen(
        words,
        cwd=paths.REPO_ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(output.glob("parts/0*")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted: what was finished is kept, run the same command again."
    assert "Traceback" not in said
    before = [record["picture"] for record in lines(output)]
    assert 0 < len(before) < 16
    assert not (output / "coco.json").exists()
    done = subprocess.run(words, cwd=paths.REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"16 pictures in {output / 'coco.json'}, 0 could not be read (failures.json)\n"
    assert [record["picture"] for record in lines(output)][: len(before)] == before
    assert sorted(record["picture"] for record in lines(output)) == sorted(predict.list_pictures(source))


@with_ray
def test_a_cluster_is_joined_by_its_address_and_a_wrong_one_is_one_sentence(bundle, pictures, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with pytest.raises(PredictError, match="the cluster has 1 processors, and 2 are asked for"):
            predict.predict(bundle, pictures, tmp_path / "out", workers=2, threads=1, address=cluster.address)
        found = predict.predict(bundle, pictures, tmp_path / "out", threads=1, address=cluster.address)
        assert found == predict.Summary(5, 1)
    finally:
        cluster.shutdown()
    with pytest.raises(PredictError, match="Ray could not begin"):
        predict.predict(bundle, pictures, tmp_path / "other", address="no address")
