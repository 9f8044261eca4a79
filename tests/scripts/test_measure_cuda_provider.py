"""The script for ONNX Runtime's CUDA provider, on this CPU with a toy detector."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from helpers import evidence, paths
from helpers.detector.preprocess import prepare, read_picture
from scripts import measure_cuda_provider as script

TOY = """<ir_version: 8, opset_import: ["" : 16]>
g (float[N,3,800,1216] input, float[N,2] image_size) => (float[N,2,5] dets, int64[N,2] labels, float[N,2,1,1] masks)
<float[1,2,5] found, int64[1] one, int64[4] shape, float[600] unused> {
    first = ReduceMean<axes = [1, 2, 3], keepdims = 0>(input)
    firsts = Unsqueeze(first, one)
    sizes = Mul(image_size, firsts)
    zero = Sub(sizes, sizes)
    zeros = Unsqueeze(zero, one)
    shift = ReduceSum<keepdims = 1>(zeros)
    dets = Add(found, shift)
    labels = Cast<to = 7>(zero)
    masks = Reshape(zero, shape)
}"""


def toy():
    model = onnx.parser.parse_model(TOY)
    found = np.array([[[1, 2, 30, 40, 0.9], [50, 60, 70, 80, 0.5]]], np.float32)
    values = {"found": found, "one": np.array([1]), "shape": np.array([-1, 2, 1, 1])}
    values["unused"] = np.ones(600, np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in values.items())
    # The sum is over one picture's own rows.
    node = next(node for node in model.graph.node if node.op_type == "ReduceSum")
    node.op_type, node.input[:] = "ReduceMax", ["zeros"]
    node.attribute.append(onnx.helper.make_attribute("axes", [1, 2]))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(script, "graphs", lambda types, *_: {f"lean-plain-{types[0]}": toy()})
        made = tmp_path_factory.mktemp("cuda") / "made"
        script.main(["prepare", str(made), "--types", "float32"])
    return made


def test_inputs_are_the_courses_but_for_the_last_digit(folder):
    _, inputs, expected = script.read(folder)
    files = sorted((paths.DATA / "demo").glob("*.jpg"))
    assert len(inputs["input"]) == len(expected["dets"]) == len(files)
    for number in (0, len(files) - 1):
        own = prepare(read_picture(files[number]))
        np.testing.assert_allclose(inputs["input"][number], own.tensor[0], rtol=0, atol=1e-5)
        assert tuple(inputs["image_size"][number]) == own.resized_shape


def test_a_run_elsewhere_makes_a_record_and_goes_on_with_it(folder, tmp_path):
    output = tmp_path / "record.json"
    words = ["run", folder, "--output", output, "--device", "cpu", "--rounds", "2"]
    without = (
        "import runpy, sys\nfor name in ('torch', 'mmdet', 'mmcv', 'cv2', 'jsonschema'): sys.modules[name] = None\n"
    )
    command = [sys.executable, "-c", f"{without}del sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"]
    command += map(str, [paths.REPO_ROOT / "scripts" / "measure_cuda_provider.py", *words])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    shown = evidence.load("cuda_provider_r50", ["rows"])
    assert [*record] == [*shown]
    assert [*record["machine"]] == [*shown["machine"]]
    asked = "run made --output record.json --device cpu --rounds 2"
    assert record["command"] == f"python scripts/measure_cuda_provider.py {asked}"
    assert record["commit"] == json.loads((folder / "about.json").read_text())["commit"]
    one, four = record["rows"]
    assert [row["batch"] for row in (one, four)] == [1, 4]
    assert {row["graph"] for row in (one, four)} == {"lean-plain-float32"}
    for row in (one, four):
        assert (row["expected"], row["with a partner"], row["without, found"]) == (16, 16, 0)
        assert (row["largest box error, px"], row["not finite in dets"]) == (0, 0)
        assert row["ms"] >= row["least ms"] > 0
    assert one["nodes"]["CPU"] > 3
    record["rows"][1]["ms"] = "kept"
    output.write_text(json.dumps(record))
    script.main([*map(str, words), "--batches", "1", "--validation", "1"])
    rows = {row["batch"]: row for row in json.loads(output.read_text())["rows"]}
    assert rows[4]["ms"] == "kept"
    # The toy finds two small boxes in any picture, and nothing that is there.
    assert (rows[1]["box AP"], rows[1]["mask AP"], rows[1]["scenes"]) == (0, 0, 1)


def test_times_begin_after_three_calls_and_end_with_patience(monkeypatch):
    clock, called = [0.0], []
    monkeypatch.setattr(script.time, "perf_counter", lambda: clock[0])

    def once():
        called.append(len(called))
        clock[0] += called[-1]

    assert script.timed(once, 2) == [3, 4]
    assert len(called) == 5
    assert script.timed(once, 30) == [8, 9, 10], "more than the patience, and three"


def test_partners_are_of_the_same_class_and_counted_once():
    def found(*rows):
        return {"dets": np.array([[row[:5] for row in rows]]), "labels": np.array([[row[5] for row in rows]])}

    box = (0, 0, 10, 10, 0.9)
    expected = found((*box, 1), (*box, 2), (50, 50, 60, 60, 0.01, 1))
    same = script.agreement(expected, expected)
    assert (same["expected"], same["with a partner"], same["without, found"]) == (2, 2, 0)
    other = script.agreement(expected, found((0, 0, 10, 9, 0.8, 1), (*box, 1), (*box, 3), (np.nan, 0, 1, 1, 0.9, 2)))
    assert (other["with a partner"], other["without, found"], other["not finite in dets"]) == (1, 2, 1)
    assert other["largest box error, px"] == 0
    moved = script.agreement(expected, found((0, 0, 10, 9, 0.8, 1)))
    assert (moved["largest box error, px"], moved["largest score error"]) == (1, 0.1)


def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path):
    with pytest.raises(SystemExit, match="SHA256SUMS cannot be read .*copy its whole folder"):
        script.read(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"about\.json is not what was prepared: copy it again"):
        script.read(tmp_path)
    with pytest.raises(SystemExit, match="is not empty: name a new folder"):
        script.main(["prepare", str(tmp_path)])


def test_graphs_share_their_weights(tmp_path):
    for name in ("a", "b"):
        script.write_graph(tmp_path / f"{name}.onnx", toy())
    assert len(list(tmp_path.glob("*.bin"))) == 1
    weights = {one.name: one for one in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert np.array_equal(onnx.numpy_helper.to_array(weights["unused"]), np.ones(600))
