"""How many threads a runner has, what it prints, and mmcv's RoIAlign where it has no defined answer; what else it
computes is held by the tests of those who use it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx.parser
import pytest

from helpers import paths
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import RunnerError
from helpers.operators import library


@pytest.mark.parametrize(
    ("given", "variable", "threads"), [(0, "3", 3), (2, "3", 2), (0, None, 0), (0, "", 0), (0, "many", 0)]
)
def test_threads_are_those_given_then_those_of_the_variable(monkeypatch, given, variable, threads):
    if variable is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 16]> g (float[2] x) => (float[2] y) {y = Neg (x)}'
    )
    runner = OnnxRunner(model, threads=given)
    assert runner.session.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize("keeps", [True, False])
def test_memory_is_kept_once(monkeypatch, keeps):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    if keeps:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 16]> g (float[2] x) => (float[2] y) {y = Neg(x)}'
    )
    assert OnnxRunner(model).session.get_session_options().enable_cpu_mem_arena is not keeps


def test_a_run_that_stops_is_an_error_and_prints_nothing(capfd):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 16]> g (float[2] x, int64[1] i) => (float[1] y) {y = Gather (x, i)}'
    )
    with pytest.raises(RunnerError, match="out of data bounds"):
        OnnxRunner(model).run({"x": np.zeros(2, np.float32), "i": np.array([7])})
    assert capfd.readouterr() == ("", "")


ROI_ALIGN = """<ir_version: 8, opset_import: ["": 11, "mmcv": 1]>
g (float[N,2,8,8] features, float[K,5] rois) => (float[K,2,2,3] y) {
    y = mmcv.MMCVRoiAlign<output_height = 2, output_width = 3, spatial_scale = 0.5, sampling_ratio = 2, mode = "MODE",
        aligned = 1>(features, rois)
}"""


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_roi_of_no_picture_in_the_batch_gives_zeros_as_in_the_plugin(mode):
    features = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float32)
    indices = np.array([0, -1, 1, 2, 1e8, -1e8, np.nan, np.inf, 1.9, -0.5], np.float32)
    rois = np.concatenate([indices[:, None], np.tile(np.float32([2, 2, 9, 11]), (len(indices), 1))], axis=1)
    model = onnx.parser.parse_model(ROI_ALIGN.replace("MODE", mode))
    found = OnnxRunner(model).run({"features": features, "rois": rois})["y"]
    plugin = library.roi_align(features, rois, (2, 3), 0.5, sampling_ratio=2, mode=mode)
    np.testing.assert_allclose(found, plugin, rtol=1e-5, atol=1e-6)
    assert found.any(axis=(1, 2, 3)).tolist() == [True, False, True, *[False] * 5, True, True]
    rois[1, 1] = rois[2, 1] = np.nan
    found = OnnxRunner(model).run({"features": features, "rois": rois})["y"]
    assert np.isnan(found).any(axis=(1, 2, 3)).nonzero()[0].tolist() == [2]


@pytest.mark.parametrize("without", ["mmcv", ""])
def test_roi_align_in_a_process_that_imports_no_detector(without):
    """An import that fails while the graph runs would end the process."""
    code = f"""
import sys
if {without!r}:
    sys.modules[{without!r}] = None
import numpy as np, onnx.parser
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import RunnerError
try:
    runner = OnnxRunner(onnx.parser.parse_model({ROI_ALIGN.replace("MODE", "avg")!r}))
    print(runner.run({{"features": np.ones((1, 2, 8, 8), "f"), "rois": np.zeros((1, 5), "f")}})["y"].shape)
except RunnerError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.REPO_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = "there is no mmcv here, which computes MMCVRoiAlign: set the course's environment up"
    assert done.stdout.startswith(said if without else "(1, 2, 2, 3)")
