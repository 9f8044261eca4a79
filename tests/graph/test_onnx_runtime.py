"""How many threads a runner has, and what it prints; what it computes is held by the tests of those who use it."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import RunnerError


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


def test_a_run_that_stops_is_an_error_and_prints_nothing(capfd):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 16]> g (float[2] x, int64[1] i) => (float[1] y) {y = Gather (x, i)}'
    )
    with pytest.raises(RunnerError, match="out of data bounds"):
        OnnxRunner(model).run({"x": np.zeros(2, np.float32), "i": np.array([7])})
    assert capfd.readouterr() == ("", "")
