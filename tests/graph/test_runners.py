"""What :class:`helpers.graph.runner.Runner` promises, of every runner alike.

TensorRT is the stand-in, which computes nothing: no number is compared here, only names, shapes, types, errors and who
owns the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from fake_tensorrt import Fake, FakeCuda, give_engine, use

from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import GraphInputError, Runner, RunnerError
from helpers.half_precision.torch_graph import TorchGraph
from helpers.tensorrt import runtime
from helpers.tensorrt.runner import TensorRTRunner

# One input; its sum with a constant, and a constant.
GRAPH = """g (float[N,3] input) => (float[N,3] y, float[3] fixed)
    <float[3] fixed = {1., 2., 3.}> {y = Add (input, fixed)}"""
# An index outside of what is gathered from stops the run.
STOPS = "g (float[N,3] input, int64[K] at) => (float[K,3] y) {y = Gather (input, at)}"
FEED = np.ones((2, 3), np.float32)

Make = Callable[..., Runner]


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 16]> {text}')


@pytest.fixture(params=["onnxruntime", "torch", "tensorrt 8.4", "tensorrt 10"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runner(kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    if not kind.startswith("tensorrt"):
        yield {"onnxruntime": OnnxRunner, "torch": TorchGraph}[kind](parsed(GRAPH))
        return
    fake = Fake(kind.split()[1])
    give_engine(fake)
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as made:
        yield made


def test_it_says_what_it_takes_and_gives(runner: Runner) -> None:
    assert runner.name
    assert isinstance(runner.name, str)
    assert set(runner.input_shapes) == {"input"}
    batch, columns = runner.input_shapes["input"]
    assert columns == 3
    assert batch == -1 or isinstance(batch, str)
    assert isinstance(runner.output_names, tuple)
    assert runner.output_names[0] == "y"


def test_all_outputs_come_unless_some_are_named(runner: Runner) -> None:
    assert set(runner.run({"input": FEED})) == set(runner.output_names)
    assert set(runner.run({"input": FEED}, ["y"])) == {"y"}
    assert runner.run({"input": FEED}, []) == {}
    assert all(isinstance(array, np.ndarray) for array in runner.run({"input": FEED}).values())


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "takes an input 'input', and the feeds have nothing"),
        ({"picture": FEED}, "takes an input 'input', and the feeds have picture"),
        ({"input": FEED.astype(np.float64)}, r"float32 \[.*, 3\] as 'input', got float64 \[2, 3\]"),
        ({"input": FEED.astype(np.int64)}, r"got int64 \[2, 3\]"),
        ({"input": FEED[0]}, r"got float32 \[3\]"),
        ({"input": FEED[None]}, r"got float32 \[1, 2, 3\]"),
        ({"input": FEED[:, :2]}, r"got float32 \[2, 2\]"),
    ],
)
def test_wrong_feeds_are_one_sentence(runner: Runner, feeds: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphInputError, match=words) as caught:
        runner.run(feeds)
    assert len(str(caught.value).splitlines()) == 1
    assert runner.run({"input": FEED}), "a run after it is none the worse"


def test_an_output_that_there_is_not_is_one_sentence(runner: Runner) -> None:
    with pytest.raises(GraphInputError, match="has no output 'nowhere': use some of: .*y"):
        runner.run({"input": FEED}, ["y", "nowhere"])


def test_feeds_that_it_does_not_take_are_left_out(runner: Runner) -> None:
    assert runner.run({"input": FEED, "image_size": np.zeros(2)})


def test_results_and_feeds_are_the_callers_own(runner: Runner) -> None:
    fed = FEED.copy()
    first = runner.run({"input": fed})
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array += 7
    second = runner.run({"input": fed})
    for name, array in kept.items():
        np.testing.assert_array_equal(second[name], array)
        assert not np.shares_memory(second[name], first[name])
    np.testing.assert_array_equal(fed, FEED)


@pytest.mark.parametrize("make", [OnnxRunner, TorchGraph])
def test_a_node_that_stops_the_run_is_one_sentence(make: Make) -> None:
    runner = make(parsed(STOPS))
    with pytest.raises(RunnerError, match=r"stopped inside the graph.*: check the input\.$") as caught:
        runner.run({"input": FEED, "at": np.array([0, 5])})
    assert len(str(caught.value).splitlines()) == 1
    assert runner.run({"input": FEED, "at": np.array([0, 1])})["y"].shape == (2, 3)


def test_what_onnx_runtime_has_no_kernel_or_no_type_for_is_one_sentence() -> None:
    with pytest.raises(RunnerError, match="cannot load the graph in memory .*Could not find an implementation"):
        OnnxRunner(parsed("g (bfloat16[N] input) => (bfloat16[N] y) {y = Neg (input)}"))
    runner = OnnxRunner(parsed("g (float[N] input) => (bfloat16[N] y) {y = Cast<to = 16> (input)}"))
    with pytest.raises(RunnerError, match="No corresponding Numpy type"):
        runner.run({"input": FEED[0]})


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("mem_alloc", "MemoryError", "no GPU memory for input"),
        ("pagelocked_empty", "MemoryError", "no memory of the host for input .*: use a smaller batch"),
        ("memcpy_htod_async", "Error", "failed on the GPU .it broke"),
        ("memcpy_dtoh_async", "Error", "failed on the GPU .it broke"),
        ("synchronize", "Error", "failed on the GPU .it broke"),
    ],
)
@pytest.mark.parametrize("kind", ["tensorrt 8.4", "tensorrt 10"], indirect=True)
def test_whatever_cuda_says_is_one_sentence(
    runner: Runner, function: str, error: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise getattr(FakeCuda, error)("it broke")

    with monkeypatch.context() as broken:
        if function == "synchronize":
            assert isinstance(runner, TensorRTRunner)
            broken.setitem(runner._lanes[0].stream._answers, function, stop)
        else:
            broken.setattr(runtime.cuda(), function, stop)
        with pytest.raises(RunnerError, match=words):
            runner.run({"input": FEED})
    assert runner.run({"input": FEED}), "a run after it is none the worse"


@pytest.mark.parametrize("make", [OnnxRunner, TorchGraph])
def test_an_input_without_a_declared_shape_takes_any(make: Make) -> None:
    declared = parsed("g (float input) => (float y) {y = Relu (input)}")
    declared.graph.input[0].type.tensor_type.ClearField("shape")
    declared.graph.output[0].type.tensor_type.ClearField("shape")
    runner = make(declared)
    assert runner.input_shapes == {}
    assert runner.run({"input": FEED})["y"].shape == (2, 3)
