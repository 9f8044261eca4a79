"""The folder: what it holds, that it detects without the course, and what is said where something is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import paths
from helpers.artifacts import DiskSpaceError
from helpers.deploy import bundle, client, serving
from helpers.detector.preprocess import prepare, read_picture
from helpers.export import exporter
from helpers.graph import detect
from helpers.graph.file import OnnxFileError, load_onnx
from helpers.graph.onnx_runtime import OnnxRunner

SHAPE = (1, 3, 256, 320)


@pytest.fixture(scope="module")
def dynamic(exported):
    """Lean, finite in half precision, of any batch: the graph of tests/export/test_pictures.py."""
    options = exporter.dynamic_options()
    half = options | {"applied": (*options["applied"], *exporter.HALF)}
    return exported("standard", (3, *SHAPE[1:]), masks="lean", **half)


@pytest.fixture(scope="module")
def lean(dynamic, tmp_path_factory):
    """The same, of a batch of 1, and not said to be finite."""
    model = load_onnx(dynamic)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.helper.set_model_props(model, {"course.flavour": "standard", "course.patches": exporter.LEAN})
    path = tmp_path_factory.mktemp("lean") / "lean.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def whole(light_detector, lean, tmp_path_factory):
    """One bundle for all; tests must not change it."""
    return bundle.make_bundle(tmp_path_factory.mktemp("made") / "bundle", light_detector, model=lean)


@pytest.fixture
def copy(whole, tmp_path):
    def links(folder, target):
        target.mkdir()
        for path in folder.iterdir():
            if path.is_dir():
                links(path, target / path.name)
            else:
                (target / path.name).symlink_to(path)

    links(whole, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(folder, name, content):
    """Another content of one file, and its sum in the list."""
    old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    sums = (folder / "SHA256SUMS").read_text().replace(old, hashlib.sha256(content).hexdigest())
    for path, data in ((folder / name, content), (folder / "SHA256SUMS", sums.encode())):
        path.unlink()
        path.write_bytes(data)


ALONE = """
import runpy, sys
for name in ("torch", "torchvision", "mmdet", "mmcv", "helpers", "patches", "onnx", "pycocotools"):
    sys.modules[name] = None  # importing it raises ImportError
sys.path.insert(0, sys.argv.pop(1))
runpy.run_path(sys.path[0] + "/client.py", run_name="__main__")
"""


def alone(folder, *words):
    command = [sys.executable, "-I", "-B", "-c", ALONE, str(folder), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_client_finds_what_the_course_finds_without_the_course(whole, lean, tmp_path):
    assert len((whole / "client.py").read_text().splitlines()) <= 100
    file = paths.DATA / "demo" / "tower.jpg"
    done = alone(whole, file, "--output", tmp_path / "found.npz")
    assert done.returncode == 0, done.stderr
    expected = detect.detect(OnnxRunner(lean), read_picture(file))
    assert len(expected) > 5
    assert len(done.stdout.splitlines()) == len(expected)
    found = np.load(tmp_path / "found.npz")
    for name in ("boxes", "scores", "labels", "masks"):
        np.testing.assert_array_equal(found[name], getattr(expected, name))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge.ppm").write_bytes(b"P6 60000 60000 255 \0")
    cv2.imwrite(str(tmp_path / "faint.png"), np.full((40, 60, 3), 4000, np.uint16))  # 12 bits: almost black in 8
    refusals = {"pipe": "pipe is no file of a picture that can be decoded", "huge.ppm": "IMAGE_PIXELS"}
    for other, words in {**refusals, "faint.png": "uint8 with pixels: (40, 60, 3) uint16"}.items():
        refused = alone(whole, tmp_path / other)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert words in refused.stderr
    nowhere = alone(whole, file, "--output", tmp_path / "pipe" / "found.npz")
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (1, 1)
    assert "Not a directory" in nowhere.stderr


@settings(max_examples=25, derandomize=True, database=None)
@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.integers(0, 99))
def test_a_picture_is_prepared_as_the_course_does_it(whole, shape, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    detector = object.__new__(client.Detector)
    detector.about = json.loads((whole / "bundle.json").read_text())
    inputs, scale = detector.prepare(picture)
    expected = prepare(picture, SHAPE[2:])
    np.testing.assert_array_equal(inputs["input"], expected.tensor)
    np.testing.assert_array_equal(inputs["image_size"], [expected.resized_shape])
    np.testing.assert_array_equal(scale, np.array(expected.scale * 2, np.float32))


def test_every_file_is_in_the_list(whole):
    listed = [line.split("  ", 1)[1] for line in (whole / "SHA256SUMS").read_text().splitlines()]
    files = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert {*listed, "SHA256SUMS"} == files
    client.verify(whole)
    assert [path.name for path in whole.parent.iterdir()] == ["bundle"]


def test_what_is_wrong_is_said(copy, lean):
    assert len(client.Detector(copy).session.get_inputs()) == 2
    (copy / "paste.py").rename(copy / "kept.py")
    with pytest.raises(client.BundleError, match=r"^paste\.py is missing from the folder .*: copy it again\.$"):
        client.Detector(copy)
    (copy / "paste.py").write_text("# another\n")
    with pytest.raises(client.BundleError, match=r"^paste\.py has changed since"):
        client.Detector(copy)
    (copy / "kept.py").rename(copy / "paste.py.tmp")
    (copy / "paste.py.tmp").replace(copy / "paste.py")
    with pytest.raises(client.BundleError, match="SHA256SUMS is missing"):
        client.Detector(copy.parent)
    for shape in ((0, 5, 3), (5, 0, 3), (5, 5), (5, 5, 4)):
        with pytest.raises(client.BundleError, match="^a picture is"):
            client.Detector.prepare(object.__new__(client.Detector), np.zeros(shape, np.uint8))
    model = load_onnx(lean)
    model.opset_import[0].version = 99
    rewrite(copy, bundle.MODEL_FILE, model.SerializeToString())
    with pytest.raises(client.BundleError, match="cannot load a model of opset 16 .*99.*use a newer one"):
        client.Detector(copy)
    about = json.loads((copy / "bundle.json").read_text())
    rewrite(copy, "bundle.json", json.dumps({**about, "format": 2}).encode())
    with pytest.raises(client.BundleError, match="has format 2, this client reads 1"):
        client.Detector(copy)


def test_a_graph_that_does_not_fit_is_refused_and_nothing_is_left(
    light_detector, lean, exported, tmp_path, monkeypatch
):
    folder = tmp_path / "bundle"
    cases = [
        ({"model": exported("standard", SHAPE)}, bundle.BundleError, "no lean masks"),
        ({"model": exported("mmcv", SHAPE)}, bundle.BundleError, "no operator MMCVRoiAlign"),
        ({"model": lean, "largest_batch": 4}, bundle.BundleError, "batch is fixed, and the largest batch is to be 4"),
        ({"model": tmp_path / "none.onnx"}, OnnxFileError, "cannot read"),
    ]
    for options, error, words in cases:
        with pytest.raises(error, match=words):
            bundle.make_bundle(folder, light_detector, **options)
    monkeypatch.setattr(bundle.artifacts, "sha256_file", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundle.make_bundle(folder, light_detector, model=lean)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    with pytest.raises(bundle.BundleError, match="is there and is no bundle"):
        bundle.make_bundle(folder, light_detector, model=lean)


def test_another_one_takes_its_place_whole_or_not_at_all(light_detector, lean, dynamic, tmp_path, monkeypatch):
    folder = bundle.make_bundle(tmp_path / "bundle", light_detector, model=lean)
    before = (folder / "SHA256SUMS").read_text()

    def full(*_):
        raise DiskSpaceError("the disk is full", "free some space")

    with monkeypatch.context() as patched:
        patched.setattr(bundle.artifacts, "write_text", full)
        with pytest.raises(DiskSpaceError):
            bundle.make_bundle(folder, light_detector, model=dynamic, largest_batch=4)
    assert (folder / "SHA256SUMS").read_text() == before
    client.verify(folder)
    bundle.make_bundle(folder, light_detector, model=dynamic, largest_batch=4)
    assert (folder / "SHA256SUMS").read_text() != before
    client.verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def model_config():
    """Triton's own message type, from tritonclient; its package would import grpc, which parsing does not need."""
    found = importlib.util.find_spec("tritonclient")
    file = f"{found.submodule_search_locations[0]}/grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("batch", [1, 4])
def test_triton_reads_its_files(lean, dynamic, backend, batch):
    messages = model_config()
    text = serving.triton_config(load_onnx(dynamic if batch > 1 else lean), "maskrcnn", backend, largest_batch=batch)
    config = text_format.Parse(text, messages.ModelConfig())
    assert (config.name, config.backend) == ("maskrcnn", backend)
    assert config.default_model_filename == {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}[backend]
    assert config.max_batch_size == (4 if batch > 1 else 0)
    assert config.HasField("dynamic_batching") == (batch > 1)
    first = [] if batch > 1 else [1]
    kind = messages.DataType.Name
    assert {one.name: (kind(one.data_type), list(one.dims)) for one in (*config.input, *config.output)} == {
        "input": ("TYPE_FP32", [*first, *SHAPE[1:]]),
        "image_size": ("TYPE_FP32", [*first, 2]),
        "dets": ("TYPE_FP32", [*first, 20, 5]),
        "labels": ("TYPE_INT64", [*first, 20]),
        "masks": ("TYPE_FP32", [*first, 20, 28, 28]),
    }


def test_the_folder_is_a_model_repository_of_triton(whole):
    for backend in ("onnxruntime", "tensorrt"):
        (model,) = (whole / "triton" / backend).iterdir()
        config = text_format.Parse((model / "config.pbtxt").read_text(), model_config().ModelConfig())
        assert config.name == model.name
        assert (model / "1").is_dir()
    assert (whole / bundle.MODEL_FILE).name == "model.onnx"


@pytest.mark.parametrize("version", serving.TRTEXEC_VERSIONS)
def test_commands_for_tensorrt(lean, dynamic, exported, version):
    fixed = serving.trtexec(load_onnx(lean), version, "m.onnx", "m.plan").split(" \\\n    ")
    assert fixed == ["trtexec", "--onnx=m.onnx", "--saveEngine=m.plan", "--noTF32", "--skipInference"]
    free = serving.trtexec(load_onnx(dynamic), version, "m.onnx", "m.plan", largest_batch=4).split(" \\\n    ")
    assert free[len(fixed) :] == [
        "--minShapes=input:1x3x256x320,image_size:1x2",
        "--optShapes=input:1x3x256x320,image_size:1x2",
        "--maxShapes=input:4x3x256x320,image_size:4x2",
    ]
    plugins = load_onnx(exported("mmcv", SHAPE))
    assert "--dynamicPlugins=libcourse_plugins.so" in serving.trtexec(plugins, version, "m.onnx", "m.plan")
    assert any("8 MMCVRoiAlign need the plugin" in remark for remark in serving.remarks(plugins, version))
    assert not any("need the plugin" in remark for remark in serving.remarks(load_onnx(lean), version))


def test_the_text_names_commands_and_what_is_not_finite(whole, light_detector, lean, exported, tmp_path):
    text = (whole / "README.md").read_text()
    for version in serving.TRTEXEC_VERSIONS:
        assert f"TensorRT {version}:\n\n    trtexec" in text
    assert "was not exported with the patches for half precision" in text
    assert "libcourse_plugins" not in text
    assert "`input` 1 x 3 x 256 x 320, `image_size` 1 x 2" in text
    other = exported("mmcv", SHAPE)
    folder = bundle.make_bundle(tmp_path / "b", light_detector, model=lean, tensorrt_model=other)
    text = (folder / "README.md").read_text()
    assert "--onnx=model_tensorrt.onnx" in text
    assert "--dynamicPlugins=libcourse_plugins.so" in text
    assert "registers nothing by being loaded" in text
    assert onnx.load(folder / "model_tensorrt.onnx").opset_import[0].version == 11
