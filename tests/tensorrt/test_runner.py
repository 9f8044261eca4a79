"""The TensorRT runtime, builder and runner against a recording fake of TensorRT and pycuda.

Only the order of calls and the error paths are checked. The fake computes nothing: no assertion here is about a result
of inference, and a pass says nothing about a GPU. scripts/verify_tensorrt.py is for that.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import Fake, Recorder, give_engine, use
from onnx import TensorProto, helper

from helpers import artifacts
from helpers.detector.preprocess import NetworkInput
from helpers.graph.runner import GraphInputError
from helpers.operators import library as plugin_library
from helpers.tensorrt import builder, runtime
from helpers.tensorrt.limits import GraphLimitError
from helpers.tensorrt.runner import EngineFileError, EngineRunError, TensorRTRunner


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("input", "y"))
    made = helper.make_graph([helper.make_node("Relu", ["input"], ["y"], name="conv")], "g", [x], [y])
    onnx.save(helper.make_model(made), tmp_path / "x.onnx")
    return tmp_path / "x.onnx"


@pytest.mark.parametrize("version", ["8.4", "10", "11"])
def test_build_parses_before_it_configures_and_switches_tf32_off(
    version: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use(monkeypatch, Fake(version))
    path = builder.build_engine(graph, tmp_path / "x.engine")
    assert path.read_bytes() == b"engine"
    wanted = ["parser.parse", "config.set_memory_pool_limit", "config.clear_flag", "builder.build_serialized_network"]
    assert [call for call in calls if call in wanted] == wanted
    assert "config.set_flag" not in calls


def test_half_precision_keeps_the_named_layers_in_fp32(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use(monkeypatch, Fake("10"))
    builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions("fp16", keep_fp32=("conv",)))
    assert calls.count("config.set_flag") == 2
    assert "layer.precision=" in calls
    assert "layer.set_output_type" in calls
    with pytest.raises(builder.EngineBuildError, match="no layer comes from the node nowhere"):
        builder.build_engine(graph, tmp_path / "y.engine", builder.BuildOptions("fp16", keep_fp32=("nowhere",)))
    assert not (tmp_path / "y.engine").exists()


def parsed_types(fake: Fake) -> dict[str, int]:
    """The float types of the nodes' results in the graph that the parser got last."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(fake.parsed[-1]), strict_mode=True)
    values = (*model.graph.value_info, *model.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize(
    ("version", "typing", "flags"),
    [("8.4", "auto", 0b01), ("10", "auto", 0b01), ("10", "weak", 0b01), ("10", "strong", 0b11), ("11", "auto", 0b1),
     ("11", "strong", 0b1), ("10.11.0.33", "auto", 0b01), ("10.12.0.36", "auto", 0b11)],
)  # fmt: skip
def test_half_precision_comes_from_flags_or_from_the_graph_never_from_both(
    version: str, typing: Any, flags: int, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake("10" if version.startswith("10.") else version)
    if version.startswith("10."):
        fake.module.__version__ = version
    calls = use(monkeypatch, fake)
    builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions("fp16", typing=typing))
    assert fake.network_flags == [flags]
    in_graph = TensorProto.FLOAT16 in parsed_types(fake).values()
    assert in_graph == (flags == 0b11 or version == "11")
    assert ("config.set_flag" in calls) != in_graph


def test_a_strongly_typed_graph_has_the_plan_in_it_and_the_layers_none(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(graph)
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="far"))
    model.graph.output[0].name = "z"
    onnx.save(model, graph)
    fake = Fake("11")
    calls = use(monkeypatch, fake)
    builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions("fp16", keep_fp32=("far",)))
    kinds = parsed_types(fake)
    assert (kinds["y"], kinds["z"]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    assert not [call for call in calls if call.startswith("layer.")]
    with pytest.raises(builder.EngineBuildError, match="the graph has no node 'nowhere'"):
        builder.build_engine(graph, tmp_path / "y.engine", builder.BuildOptions("fp16", keep_fp32=("nowhere",)))
    assert not (tmp_path / "y.engine").exists()


@pytest.mark.parametrize(("version", "flags"), [("10", 0b11), ("11", 0b1)])
def test_single_precision_leaves_the_graph_alone(
    version: str, flags: int, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(version)
    use(monkeypatch, fake)
    builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions(typing="strong"))
    assert fake.network_flags == [flags]
    assert fake.parsed == [graph.read_bytes()]


@pytest.mark.parametrize(
    ("version", "have", "missing"),
    [("8.4", ("weak",), "strong"), ("10", ("weak", "strong"), None), ("11", ("strong",), "weak"),
     ("12", ("strong",), "weak")],
)  # fmt: skip
def test_a_typing_that_the_version_has_not_is_one_sentence(
    version: str, have: tuple[str, ...], missing: Any, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake("11" if version == "12" else version)
    if version == "12":  # the flag that 11 ignores is gone
        del fake.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    use(monkeypatch, fake)
    assert builder.typings() == have
    if missing:
        with pytest.raises(
            builder.EngineBuildError, match=f"has no {missing} typing: set BuildOptions.typing to '{have[0]}'"
        ):
            builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions(typing=missing))
        builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions("fp16"))


@pytest.mark.parametrize(
    ("version", "first"),
    [("10.1.0", "weak"), ("10.11.0.33", "weak"), ("10.12.0.36", "strong"), ("10.16.1.2", "strong")],
)
def test_strong_typing_comes_first_where_weak_is_deprecated(
    version: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake("10")
    fake.module.__version__ = version
    use(monkeypatch, fake)
    assert builder.typings()[0] == first
    assert set(builder.typings()) == {"weak", "strong"}


@pytest.mark.parametrize(("version", "refused"), [("8.4.1.5", True), ("10.13.0.35", True), ("9.3.0", False)])
def test_a_graph_beyond_a_limit_is_named_before_anything_is_built(
    version: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TopK takes 3840 at most. Of 9.3 no conditions were read: it gets the graph as it is."""
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 5000])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4000])]
    outputs.append(helper.make_tensor_value_info("i", TensorProto.INT64, [1, 4000]))
    top = helper.make_node("TopK", ["input", "k"], ["y", "i"], name="best")
    k = onnx.numpy_helper.from_array(np.array([4000]), "k")
    onnx.save(helper.make_model(helper.make_graph([top], "g", [x], outputs, [k])), tmp_path / "x.onnx")
    fake = Fake("10")
    fake.module.__version__ = version
    calls = use(monkeypatch, fake)
    if refused:
        with pytest.raises(GraphLimitError, match="TopK best: .*at most 3840.*4000"):
            builder.build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
        assert not calls
    else:
        builder.build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")


def test_the_precision_names_the_file(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = types.SimpleNamespace(serialize=lambda: b"timings")
    use(monkeypatch, Fake("10", config={"create_timing_cache": lambda _: cache}))
    monkeypatch.setattr(builder, "load_plugins", lambda _: None)
    monkeypatch.setattr(builder.paths, "build_dir", lambda _: tmp_path)
    made = [
        builder.make_engine("m", graph, builder.BuildOptions(precision), plugins=graph)
        for precision in ("fp32", "fp16")
    ]
    made.append(builder.make_engine("m", graph, builder.BuildOptions("fp16"), label="mine", plugins=graph))
    assert [path.name for path in made] == ["x-fp32.engine", "x-fp16.engine", "x-mine.engine"]


def test_an_engine_is_built_again_for_another_typing_and_where_what_makes_it_was_changed(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = types.SimpleNamespace(serialize=lambda: b"timings")
    fake = Fake("10", config={"create_timing_cache": lambda _: cache})
    use(monkeypatch, fake)
    monkeypatch.setattr(builder, "load_plugins", lambda _: None)
    monkeypatch.setattr(builder.paths, "build_dir", lambda _: tmp_path)

    def builds(**changed: Any) -> int:
        before = len(fake.parsed)
        builder.make_engine("emoji", graph, builder.BuildOptions("fp16", **changed), plugins=graph)
        return len(fake.parsed) - before

    assert [builds(), builds(), builds(typing="weak")] == [1, 0, 0], "auto stands for weak here"
    assert [builds(typing="strong"), builds(typing="strong")] == [1, 0]
    file_input = artifacts.file_input
    for name in ("tensorrt/builder", "half_precision/plan", "half_precision/rules", "graph/index", "operators/limits"):

        def edited(path: Path, name: str = name) -> str:
            return file_input(path) + ("edited" if str(path).endswith(f"helpers/{name}.py") else "")

        monkeypatch.setattr(artifacts, "file_input", edited)
        assert [builds(typing="strong"), builds(typing="strong")] == [1, 0], name


def test_a_parse_builds_nothing(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10", network={"num_layers": 7})
    calls = use(monkeypatch, fake)
    assert builder.parse(graph) == 7
    assert fake.parsed == [graph.read_bytes()]
    assert not [call for call in calls if call.startswith(("config.", "builder.build", "builder.create_builder"))]


def test_the_parsers_words_are_in_the_error(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = types.SimpleNamespace(desc=lambda: "Plugin not found")
    use(monkeypatch, Fake("10", parser={"parse": lambda _: False, "num_errors": 1, "get_error": lambda _: words}))
    for ask in (builder.parse, lambda path: builder.build_engine(path, tmp_path / "x.engine")):
        with pytest.raises(builder.EngineBuildError, match=r"x\.onnx and said: Plugin not found"):
            ask(graph)


def test_the_loggers_words_are_in_the_error(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10", builder={"build_serialized_network": lambda *_: fake.logger.log("e", "out of memory")})
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"old")
    with pytest.raises(builder.EngineBuildError, match="said: out of memory"):
        builder.build_engine(graph, tmp_path / "x.engine")
    assert (tmp_path / "x.engine").read_bytes() == b"old"


def test_a_dynamic_input_needs_a_profile_and_a_static_one_takes_none(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = ((1, 3, 4, 4), (2, 3, 4, 4), (4, 3, 4, 4))
    use(monkeypatch, Fake("10"))
    with pytest.raises(builder.EngineBuildError, match="differ in: input"):
        builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions(profile=(("input", shapes),)))
    dynamic = types.SimpleNamespace(name="input", shape=(-1, 3, 4, 4), dtype="float32")
    fake = Fake("10", network={"get_input": lambda _: dynamic}, config={"add_optimization_profile": lambda _: 0})
    use(monkeypatch, fake)
    with pytest.raises(builder.EngineBuildError, match="differ in: input"):
        builder.build_engine(graph, tmp_path / "x.engine")
    builder.build_engine(graph, tmp_path / "x.engine", builder.BuildOptions(profile=(("input", shapes),)))
    assert "config.add_optimization_profile" in fake.calls


@pytest.mark.parametrize(
    ("version", "execute"), [("8.4", "context.execute_async_v2"), ("10", "context.execute_async_v3")]
)
def test_order_of_a_run(version: str, execute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(version)
    give_engine(fake)
    calls = use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as runner:
        runner.run({"input": np.zeros((5, 3), np.float32)})
        wanted = ("to device", "event.record", execute, "to host", "stream.synchronize")
        order = [call for call in calls if call in wanted]
        # The events lie round the engine alone.
        assert order == ["to device", "event.record", execute, "event.record", "to host", "stream.synchronize"]
        assert runner.engine_ms == 2.5
        before = calls.count("mem_alloc"), calls.count("pinned")
        runner.run({"input": np.zeros((5, 3), np.float32)})
        assert (calls.count("mem_alloc"), calls.count("pinned")) == before, "buffers are used again"
    assert calls[-1] == "gpu.pop"


def test_an_output_of_unknown_size_is_fetched_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake, late=True)
    calls = use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as runner:
        assert runner.run({"input": np.zeros((1, 3), np.float32)})["y"].shape == (2, 3)
    assert calls.index("stream.synchronize") < calls.index("to host")


def test_a_closed_runner_frees_its_lanes_before_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake, late=True)
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    gc.disable()
    try:
        runner = TensorRTRunner(tmp_path / "x.engine")
        runner.run({"input": np.zeros((1, 3), np.float32)})
        lane = weakref.ref(runner._lanes[0])
        runner.close()
        assert lane() is None, "something still holds it: its context would outlive the engine"
    finally:
        gc.enable()


def test_two_lanes_have_two_pictures_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    calls = use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine", lanes=2) as runner:
        assert len(list(runner.run_many([{"input": np.zeros((1, 3), np.float32)}] * 3))) == 3
    order = [call[-4:] for call in calls if call in ("context.execute_async_v3", "stream.synchronize")]
    assert order == ["c_v3", "c_v3", "nize", "c_v3", "nize", "nize"]


def test_results_are_copies_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    inputs = {"input": np.zeros((1, 3), np.float32)}
    with TensorRTRunner(tmp_path / "x.engine") as runner:
        first, second = (runner.run(inputs)["y"] for _ in range(2))
        assert not np.shares_memory(first, second)
        first, second = (runner.run(inputs, copy=False)["y"] for _ in range(2))
        assert np.shares_memory(first, second)


def test_a_failure_waits_for_what_else_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    calls = use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    good, bad = np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    with TensorRTRunner(tmp_path / "x.engine", lanes=3) as runner:
        with pytest.raises(GraphInputError, match=r"float32 \[-1, 3\] as 'input', got float32 \[1, 4\]"):
            list(runner.run_many([{"input": array} for array in (good, good, bad)]))
        assert calls.count("stream.synchronize") >= 2
        assert len(list(runner.run_many([{"input": good}] * 4))) == 4


@pytest.mark.parametrize("version", ["8.4", "10"])
def test_a_profile_is_shared_where_that_is_an_option(
    version: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {} if version == "8.4" else {"PreviewFeature": types.SimpleNamespace(PROFILE_SHARING_0806=0)}
    calls = use(monkeypatch, Fake(version, module=part))
    builder.build_engine(graph, tmp_path / "x.engine")
    assert ("config.set_preview_feature" in calls) == (version == "10")


def test_memory_is_asked_in_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use(monkeypatch, Fake("10"))
    assert runtime.device_memory() == (30, 40)
    assert calls == ["gpu.push", "mem_get_info", "gpu.pop"]


def test_each_picture_of_a_batch_gets_its_own_rows_without_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are made up: row i of a batch tells which picture it was made from."""

    def picture(number: int) -> NetworkInput:
        tensor = np.full((1, 3, 8, 8), number, np.float32)
        return NetworkInput(tensor, (1.0, 1.0), (8 - number, 8), (8 - number, 8))

    def run_many(batches: Any, *, copy: bool) -> Any:
        for inputs in batches:
            ids = inputs["input"][:, 0, 0, 0]
            dets = np.zeros((len(ids), 2, 5), np.float32)
            dets[:, 0] = ids[:, None]  # the second row is padding
            yield {"dets": dets, "labels": np.full((len(ids), 2), ids[:, None]), "masks": np.ones((len(ids), 2, 8, 8))}

    runner = object.__new__(TensorRTRunner)
    monkeypatch.setattr(runner, "run_many", run_many)
    found = list(runner.detect_many([[picture(1)], [picture(2), picture(3)]]))
    assert [[one.labels.tolist() for one in batch] for batch in found] == [[[1]], [[2], [3]]]
    assert [[one.masks.shape for one in batch] for batch in found] == [[(1, 7, 8)], [(1, 6, 8), (1, 5, 8)]]
    assert next(runner.detect_many([[picture(4)]]))[0].scores.tolist() == [4]


def test_wrong_inputs_and_failures_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake, good=False)
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as runner:
        with pytest.raises(GraphInputError, match="takes an input 'input', and the feeds have picture"):
            runner.run({"picture": np.zeros((1, 3), np.float32)})
        with pytest.raises(GraphInputError, match=r"float32 \[-1, 3\] as 'input', got float64 \[1, 3\]"):
            runner.run({"input": np.zeros((1, 3))})
        with pytest.raises(EngineRunError, match="running the engine failed"):
            runner.run({"input": np.zeros((1, 3), np.float32)})


def test_too_little_gpu_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    use(monkeypatch, fake, full=True)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as runner, pytest.raises(EngineRunError, match="no GPU memory"):
        runner.run({"input": np.zeros((1, 3), np.float32)})


def test_a_smaller_batch_runs_after_one_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with TensorRTRunner(tmp_path / "x.engine") as runner:
        cuda = runtime.cuda()
        runner.run({"input": np.zeros((4, 3), np.float32)})
        cuda.full = True
        with pytest.raises(EngineRunError, match="use a smaller batch"):
            runner.run({"input": np.zeros((5, 3), np.float32)})
        cuda.full = False
        runner.run({"input": np.zeros((2, 3), np.float32)})


def test_engines_of_elsewhere_missing_and_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    give_engine(fake)
    use(monkeypatch, fake)
    path = tmp_path / "x.engine"
    with pytest.raises(EngineFileError, match="there is no engine"):
        TensorRTRunner(path)
    artifacts.make(path, {**runtime.machine(), "gpu": "Other GPU"}, lambda made: made.write_bytes(b"engine") and None)
    with pytest.raises(EngineFileError, match="gpu Other GPU, and here is Fake GPU"):
        TensorRTRunner(path)
    artifacts.make(path, {**runtime.machine(), "tensorrt": "8.4"}, lambda made: made.write_bytes(b"engine") and None)
    with pytest.raises(EngineFileError, match=r"tensorrt 8\.4, and here is 10"):
        TensorRTRunner(path)
    artifacts.make(path, runtime.machine(), lambda made: made.write_bytes(b"engine") and None)
    path.write_bytes(b"eng")
    with pytest.raises(EngineFileError, match="truncated"):
        TensorRTRunner(path)


def test_an_engine_that_tensorrt_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("10")
    fake.module.Runtime = lambda _: Recorder(fake.calls, "runtime", deserialize_cuda_engine=lambda _: None)
    calls = use(monkeypatch, fake)
    (tmp_path / "x.engine").write_bytes(b"engine")
    with pytest.raises(EngineFileError, match=r"cannot open x\.engine"):
        TensorRTRunner(tmp_path / "x.engine")
    assert calls[-1] == "gpu.pop"


def shared_library(path: Path, source: str) -> Path:
    source_file = path.with_suffix(".cpp")
    source_file.write_text(f'extern "C" {{ {source} }}')
    compiler = plugin_library.find_cxx() or "c++"
    subprocess.run([compiler, "-shared", "-fPIC", source_file, "-o", path], check=True)
    return path


def test_plugin_library_missing_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake("10"))
    with pytest.raises(runtime.PluginLibraryError, match="there is no plugin library"):
        runtime.load_plugins(tmp_path / "missing.so")
    (tmp_path / "bad.so").write_bytes(b"")
    with pytest.raises(
        runtime.PluginLibraryError, match=r"bad\.so cannot be loaded .*: build it against this TensorRT"
    ):
        runtime.load_plugins(tmp_path / "bad.so")
    other = shared_library(tmp_path / "other.so", "int something_else() { return 0; }")
    with pytest.raises(runtime.PluginLibraryError, match=r"other\.so cannot be loaded .*course_plugins_register"):
        runtime.load_plugins(other)
    words = r'"MMCVRoiAlign registered\ngrid_sampler refused\nMultiLevelRoIAlign refused\n"'
    refusing = shared_library(tmp_path / "refusing.so", f"const char* course_plugins_register() {{ return {words}; }}")
    with pytest.raises(
        runtime.PluginLibraryError, match="refused the plugins grid_sampler, MultiLevelRoIAlign of .* said"
    ):
        runtime.load_plugins(refusing)


@pytest.mark.parametrize("version", ["8.4", "10", "11"])
def test_plugins_find_the_functions_of_a_tensorrt_that_was_loaded_for_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """As TensorRT's wheels load it; the library of the plugins is not linked with it, and here calls one function.

    A name that the registry holds already is no error.
    """
    said = r'"MMCVRoiAlign present\ngrid_sampler registered\nMultiLevelRoIAlign registered\n"'
    function = f"stand_in_{version.replace('.', '_')}"
    nvinfer = shared_library(tmp_path / "libnvinfer.so.99", f"const char* {function}() {{ return {said}; }}")
    plugins = shared_library(
        tmp_path / "libplugins.so",
        f"const char* {function}(); const char* course_plugins_register() {{ return {function}(); }}",
    )
    ctypes.CDLL(str(nvinfer))
    with pytest.raises(OSError, match="undefined symbol"):
        ctypes.CDLL(str(plugins))
    use(monkeypatch, Fake(version))
    assert runtime.load_plugins(plugins) == {
        "MMCVRoiAlign": "present",
        "grid_sampler": "registered",
        "MultiLevelRoIAlign": "registered",
    }


def test_the_plugin_library_is_built_for_the_gpu_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake("10"))
    monkeypatch.setattr(plugin_library, "build_tensorrt_library", Path)
    assert runtime.build_plugin_library() == Path("sm_86")


def test_a_machine_without_tensorrts_headers_says_where_they_are_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake("10"))
    monkeypatch.setattr(plugin_library, "find_nvcc", lambda: "nvcc")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    assert "name with TENSORRT_ROOT" in (runtime.why_not() or "")
    (tmp_path / "NvInferRuntime.h").touch()
    assert runtime.why_not() is None


def test_nothing_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.importlib, "import_module", lambda name: types.ModuleType(name))
    assert "not installed" in (runtime.why_not() or "")
