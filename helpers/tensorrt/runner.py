"""Build and run TensorRT engines, with full TensorRT 8.4 to 11.

What differs between the versions is found with ``hasattr``, never by reading a version number: the explicit-batch flag,
precision flags and layer precisions (gone in 11, where types come from the graph), strongly typed networks (from 9.0
on), named tensors (bindings by index before 8.5), the progress monitor. Needs a GPU, TensorRT and pycuda;
:func:`why_not` says what is missing. The tests prove the order of calls and the error paths only, against a recording
fake; ``scripts/verify_tensorrt.py`` is the proof on a machine with a GPU and TensorRT, and until a record of it is in
``evidence/``, nobody has seen this module run an engine. Names and signatures are checked against TensorRT 10.13's by
``scripts/check_tensorrt_types.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import re
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import onnx
import psutil
from tqdm import tqdm
from typing_extensions import override

from helpers import artifacts, paths
from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput
from helpers.errors import CourseError
from helpers.graph import detect
from helpers.graph.runner import Arrays, RunnerError, checked_feeds, checked_outputs
from helpers.half_precision import plan as precision_plan
from helpers.half_precision.simulation import HalfPrecisionError
from helpers.operators import library as plugin_library
from helpers.tensorrt import limits
from helpers.tensorrt.operator_support import UnknownVersionError

if TYPE_CHECKING:
    import tensorrt as trt
else:

    class _TensorRT:
        """``trt.X`` is TensorRT's X, looked up when it is used: this module can be imported without TensorRT."""

        def __getattr__(self, name: str) -> Any:
            return getattr(_trt(), name)

    trt = _TensorRT()

__all__ = [
    "BuildOptions",
    "EngineBuildError",
    "EngineFileError",
    "EngineRunError",
    "PluginLibraryError",
    "TensorRTMissingError",
    "TensorRTRunner",
    "Typing",
    "build_engine",
    "build_plugin_library",
    "load_plugins",
    "make_engine",
    "typings",
    "why_not",
]

Shape = tuple[int, ...]
#: Who decides in which precision a layer computes; see :class:`BuildOptions`.
Typing = Literal["weak", "strong"]


class TensorRTMissingError(CourseError):
    """There is no TensorRT, no pycuda, or no GPU here."""


class PluginLibraryError(CourseError):
    """The plugin library is missing, cannot be loaded, or did not register its creators."""


class EngineBuildError(CourseError):
    """TensorRT refused the graph or the options, or could not build; its own words are in the message."""


class EngineFileError(CourseError):
    """An engine file is missing, truncated, or made by another TensorRT or for another GPU."""


class EngineRunError(RunnerError):
    """An engine ran out of GPU memory, or failed; TensorRT's words are in the message."""


@dataclass(frozen=True)
class BuildOptions:
    """precision: "fp32" (TF32 off, for alignment) or "fp16". keep_fp32: names of ONNX nodes that stay in FP32 in an
    FP16 engine. profile: (least, usual, largest) shape of each input with dynamic dimensions, as ``(name, shapes)``.
    workspace: bytes that a layer may use for itself, at most.

    typing: "weak", TensorRT chooses the precision of each layer, within the FP16 flag and the layer precisions that
    keep_fp32 sets; "strong", every tensor has the type that the graph says, and the graph of an FP16 engine is
    :func:`helpers.half_precision.plan.cast_islands` of the ONNX file and keep_fp32; "auto", the first of
    :func:`typings`. In a strongly typed FP16 engine our plugins compute in FP32 (``cast_islands`` leaves operators of
    other domains so; their kernels know half too) and NonMaxSuppression reads FP32; in a weakly typed one TensorRT
    chooses for them too. That a strongly typed parser accepts the converted graph is tested with TensorRT for RTX, but
    for the plugins.
    """

    precision: Literal["fp32", "fp16"] = "fp32"
    keep_fp32: tuple[str, ...] = ()
    typing: Literal["auto", "weak", "strong"] = "auto"
    profile: tuple[tuple[str, tuple[Shape, Shape, Shape]], ...] = ()
    workspace: int = 4 << 30


# --- what is here -----------------------------------------------------------------------------------------------------


def _trt() -> Any:
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        raise TensorRTMissingError(
            f"TensorRT cannot be imported ({error})", "on a machine with a GPU: pip install -r requirements-gpu.txt"
        ) from error
    # The type stubs alone make an empty namespace package of this name.
    if not hasattr(module, "Builder"):
        raise TensorRTMissingError(
            "TensorRT is not installed", "on a machine with a GPU: pip install -r requirements-gpu.txt"
        )
    return module


def _cuda() -> Any:
    try:
        driver: Any = importlib.import_module("pycuda.driver")
        driver.init()
        devices = driver.Device.count()
    except ImportError as error:
        raise TensorRTMissingError(f"pycuda cannot be imported ({error})", "pip install pycuda") from error
    except Exception as error:
        raise TensorRTMissingError(
            f"the CUDA driver does not start ({error})", "use a machine with an NVIDIA GPU"
        ) from error
    if not devices:
        raise TensorRTMissingError("there is no NVIDIA GPU here", "use a machine with one")
    return driver


def why_not() -> str | None:
    """Why no engine with the course's plugins can be built and run here, in one sentence; None if one can."""
    try:
        _trt()
        _cuda()
        plugin_library.tensorrt_toolchain()
    except (TensorRTMissingError, plugin_library.PluginBuildError) as error:
        return str(error)
    return None


def machine() -> dict[str, Any]:
    """TensorRT's version, the GPU's name and compute capability: an engine belongs to all three."""
    device = _cuda().Device(0)
    return {
        "tensorrt": trt.__version__,
        "gpu": device.name(),
        "compute capability": ".".join(map(str, device.compute_capability())),
    }


def typings() -> tuple[Typing, ...]:
    """The kinds of network that this TensorRT builds, the one that "auto" takes first: ("weak",) before 9.0, both up to
    10, weak first up to 10.11 and strong first from 10.12 on, which deprecates weak typing; ("strong",) from 11 on.
    Raises :class:`TensorRTMissingError`.
    """
    weak = hasattr(trt.BuilderFlag, "FP16")
    # The flag is ignored in 11, where every network is strongly typed, and may go.
    strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not weak
    have: tuple[Typing, ...] = (*(("weak",) if weak else ()), *(("strong",) if strong else ()))
    return have[::-1] if _weak_is_deprecated() else have


def _weak_is_deprecated() -> bool:
    # The one version number that is read: a deprecated flag looks like any other. (The bindings of 10.16 say of FP16:
    # "Deprecated in TensorRT 10.12. Superseded by strong typing.")
    numbers = [int(part) for part in trt.__version__.split(".")[:2] if part.isdecimal()]
    return numbers >= [10, 12]


def _with_typing(options: BuildOptions) -> BuildOptions:
    """The options with "weak" or "strong" in the place of "auto"."""
    have = typings()
    typing = have[0] if options.typing == "auto" else options.typing
    if typing not in have:
        raise EngineBuildError(f"this TensorRT has no {typing} typing", f"set BuildOptions.typing to {have[0]!r}")
    return replace(options, typing=typing)


class _Log:
    """TensorRT's errors and warnings, collected; :meth:`words` gives the errors for an exception."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        outer = self

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            @override
            def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    outer.errors.append(msg)
                elif severity == trt.ILogger.WARNING:
                    outer.warnings.append(msg)

        self.logger = Logger()

    def words(self) -> str:
        """The collected errors, once each, and forgotten afterwards."""
        said = "; ".join(dict.fromkeys(self.errors)) or "nothing"
        self.errors.clear()
        return said


# --- plugins ----------------------------------------------------------------------------------------------------------


def build_plugin_library() -> Path:
    """``libcourse_plugins.so`` for the first GPU here, compiled if it is not there or its sources have changed.

    Raises:
        TensorRTMissingError, helpers.operators.library.PluginBuildError.
    """
    major, minor = _cuda().Device(0).compute_capability()
    return plugin_library.build_tensorrt_library(f"sm_{major}{minor}")


def _share_symbols() -> None:
    """Let libraries that are loaded from now on find libnvinfer's functions: TensorRT's wheels load it for themselves
    alone, and the plugin library calls two of them.
    """
    for mapped in psutil.Process().memory_maps():
        if Path(mapped.path).name.startswith("libnvinfer.so"):
            ctypes.CDLL(mapped.path, mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)


@functools.cache
def load_plugins(path: Path) -> dict[str, str]:
    """Register the plugins of a library with TensorRT, once in a process; returns what
    :func:`helpers.operators.library.register_plugins` says of each, "registered" or "present".

    Raises:
        PluginLibraryError: the library is missing, cannot be loaded, or a plugin was refused.
    """
    _trt()
    if not Path(path).is_file():
        raise PluginLibraryError(f"there is no plugin library {path}", "build it: see plugins/README.md")
    log = _Log()
    # NVIDIA's own first: some importers of the ONNX parser (NonMaxSuppression's, RoiAlign's) make plugins of them.
    trt.init_libnvinfer_plugins(log.logger, "")
    _share_symbols()
    try:
        outcome = plugin_library.register_plugins(path)
    except plugin_library.PluginBuildError as error:
        raise PluginLibraryError(error.problem, error.next_step) from error
    if refused := [name for name, how in outcome.items() if how == "refused"]:
        raise PluginLibraryError(
            f"TensorRT refused the plugins {', '.join(refused)} of {path} and said: {log.words()}",
            "build it against this TensorRT",
        )
    return outcome


# --- building ---------------------------------------------------------------------------------------------------------


def build_engine(
    onnx_path: Path, path: Path, options: BuildOptions = BuildOptions(), *, timing_cache: Path | None = None
) -> Path:
    """Build an engine from an ONNX file; ``path`` appears whole or not at all. Plugins must be loaded before.

    Raises:
        helpers.tensorrt.limits.GraphLimitError: this version would refuse a node, or compute something else. Comes
            before anything is built.
        TensorRTMissingError, EngineBuildError.
    """
    options = _with_typing(options)
    graph = _for_this_version(onnx_path, options)
    log = _Log()
    builder = trt.Builder(log.logger)
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if options.typing == "strong" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)) or log.words()
        raise EngineBuildError(
            f"TensorRT cannot parse {Path(onnx_path).name} and said: {said}", "load the plugins first"
        )

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_precision(config, network, options)
    _add_profile(builder, config, network, options, onnx_path)
    # Several contexts on one profile are an option in 8.6, and the rule from 10 on.
    if hasattr(trt, "PreviewFeature") and hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    cache = _open_timing_cache(config, timing_cache)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _progress_monitor()
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineBuildError(
            f"TensorRT built no engine from {Path(onnx_path).name} and said: {log.words()}",
            "if it speaks of memory, lower BuildOptions.workspace or close what else uses the GPU",
        )
    artifacts.write_bytes(Path(path), bytes(serialized))
    if cache is not None and timing_cache is not None:
        artifacts.write_bytes(timing_cache, bytes(cache.serialize()))
    return Path(path)


def _for_this_version(onnx_path: Path, options: BuildOptions) -> bytes:
    """The graph as this version's parser gets it, its limits checked; float16 is in it where types come from there."""
    model = onnx.load(onnx_path)
    if _half_in_graph(options):
        try:
            model = precision_plan.cast_islands(model, options.keep_fp32)
        except HalfPrecisionError as error:
            raise EngineBuildError(error.problem, error.next_step) from error
    # No release from 8.4 on is refused for not having been read: it parses as it may.
    with contextlib.suppress(UnknownVersionError):
        limits.check(model, trt.__version__, {name: largest for name, (_, _, largest) in options.profile})
    return bytes(model.SerializeToString())


def _half_in_graph(options: BuildOptions) -> bool:
    return options.precision == "fp16" and options.typing == "strong"


def _set_precision(config: trt.IBuilderConfig, network: trt.INetworkDefinition, options: BuildOptions) -> None:
    # A strongly typed network allows neither the flag nor layer precisions.
    if options.precision == "fp32" or options.typing == "strong":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if not options.keep_fp32:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    kept = set(options.keep_fp32)
    unused = set(kept)
    floats = (trt.float32, trt.float16)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        name = _onnx_name(layer)
        if name not in kept:
            continue
        unused.discard(name)
        outputs = [number for number in range(layer.num_outputs) if layer.get_output(number).dtype in floats]
        # Layers of integers (shapes, indices) have no precision to set.
        if outputs:
            layer.precision = trt.float32
        for number in outputs:
            layer.set_output_type(number, trt.float32)
    if unused:
        raise EngineBuildError(f"no layer comes from the node {sorted(unused)[0]}", "mend BuildOptions.keep_fp32")


def _onnx_name(layer: trt.ILayer) -> str:
    """The ONNX node that a layer comes from: from its metadata where the version writes it, else the layer's name."""
    found = re.search(r"\[ONNX Layer: (.+?)\]", (layer.metadata if hasattr(layer, "metadata") else "") or "")
    return found[1] if found else layer.name


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    options: BuildOptions,
    onnx_path: Path,
) -> None:
    shapes = dict(options.profile)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
    if dynamic != set(shapes):
        named = ", ".join(sorted(dynamic ^ set(shapes)))
        raise EngineBuildError(
            f"the profile and the dynamic inputs of {Path(onnx_path).name} differ in: {named}",
            "mend BuildOptions.profile",
        )
    if shapes:
        profile = builder.create_optimization_profile()
        for name, (least, usual, largest) in shapes.items():
            profile.set_shape(name, least, usual, largest)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(
                "TensorRT refused the optimization profile", "order its shapes: least, usual, largest"
            )


def _open_timing_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache | None:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # A cache of another GPU or version is refused: begin an empty one.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _progress_monitor() -> trt.IProgressMonitor:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, tqdm[Any]] = {}

        @override
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, leave=False)

        @override
        def step_complete(self, phase_name: str, step: int) -> bool:
            self.bars[phase_name].update()
            return True

        @override
        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name).close()

    return Monitor()


def make_engine(
    model_name: str,
    onnx_path: Path,
    options: BuildOptions = BuildOptions(),
    *,
    label: str | None = None,
    plugins: Path | None = None,
) -> Path:
    """``build/<model>/<onnx file>-<label>.engine``, the label being the precision unless one is given.

    Built if it is not there or anything it depends on has changed: the ONNX file, TensorRT, the GPU, the options, the
    plugin library (:func:`build_plugin_library` if ``plugins`` is None), and what turns the graph into float16, where
    that is done. "auto" and the typing that it stands for are the same option.

    Raises:
        what :func:`build_engine` and :func:`load_plugins` raise, and helpers.operators.library.PluginBuildError.
    """
    where = machine()
    options = _with_typing(options)
    library = build_plugin_library() if plugins is None else plugins
    load_plugins(library)
    inputs = {
        "onnx": artifacts.file_input(onnx_path),
        **where,
        "options": asdict(options),
        "plugins": artifacts.file_input(library),
    }
    if _half_in_graph(options):
        inputs["float16"] = [
            artifacts.file_input(paths.REPO_ROOT / "helpers" / "half_precision" / name)
            for name in ("plan.py", "simulation.py", "rules.py")
        ]
    folder = paths.build_dir(model_name)
    cache = folder / "tensorrt.timing"

    def build(temporary: Path) -> None:
        build_engine(onnx_path, temporary, options, timing_cache=cache)

    return artifacts.make(folder / f"{Path(onnx_path).stem}-{label or options.precision}.engine", inputs, build)


# --- running ----------------------------------------------------------------------------------------------------------


class TensorRTRunner:
    """One engine, ready to run; a context manager. ``lanes`` pictures can be in flight, each on a stream of its own.
    ``engine_ms``: milliseconds that the engine alone took on the GPU, without the copies, for the result given last.

    Raises:
        TensorRTMissingError: no TensorRT, pycuda or GPU.
        EngineFileError: the file is missing, truncated, or belongs to another TensorRT or GPU.
    """

    def __init__(self, path: Path, *, lanes: int = 1) -> None:
        _trt()
        self._cuda = _cuda()
        self.path = Path(path)
        if lanes > 1 and not hasattr(trt, "TensorIOMode"):
            raise EngineRunError("this TensorRT cannot share a profile between streams", "use lanes=1")
        data = _read_engine(self.path)
        self.engine_ms: float | None = None
        self._context = self._cuda.Device(0).retain_primary_context()
        self._context.push()
        try:
            self._log = _Log()
            self._runtime = trt.Runtime(self._log.logger)
            self.engine = self._runtime.deserialize_cuda_engine(data)
            if self.engine is None:
                raise EngineFileError(
                    f"TensorRT cannot open {self.path.name} and said: {self._log.words()}",
                    "delete it and build it here",
                )
            kind: type[_Lane] = _NamedLane if hasattr(self.engine, "num_io_tensors") else _IndexedLane
            self._lanes = [kind(self._cuda, self.engine, self._log) for _ in range(lanes)]
        except BaseException:
            self._context.pop()
            raise

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the GPU memory, contexts before the engine before the runtime, as TensorRT wants it."""
        if self._context is not None:
            self._lanes.clear()
            del self.engine, self._runtime
            self._context.pop()
            self._context = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """Of each input; a dimension that the profile leaves open is -1."""
        return {name: shape for name, (_, shape) in self._lanes[0].wanted().items()}

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._lanes[0].output_names)

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None, *, copy: bool = True
    ) -> Arrays:
        """As :meth:`helpers.graph.runner.Runner.run`; ``copy`` as for :meth:`run_many`.

        Raises:
            helpers.graph.runner.GraphInputError: a missing or wrong input, or an output that there is not.
            EngineRunError: too little GPU memory, or TensorRT failed.
        """
        wanted = checked_outputs(self.name, self.output_names, outputs)
        found = next(iter(self.run_many([feeds], copy=copy)))
        return {name: found[name] for name in wanted}

    def run_many(self, batches: Iterable[Mapping[str, npt.NDArray[Any]]], *, copy: bool = True) -> Iterator[Arrays]:
        """Run each, up to ``lanes`` at a time; results in the order of the inputs. Errors as for :meth:`run`.

        ``copy`` False gives the runner's own pinned memory: it holds until the next result is asked for. (The masks of
        one picture are 389 MB, whose copy takes longer than many an engine.)
        """
        waiting: deque[_Lane] = deque()
        free = deque(self._lanes)
        try:
            for inputs in batches:
                if not free:
                    lane = waiting.popleft()
                    yield self._result(lane, copy)
                    free.append(lane)
                lane = free.popleft()
                waiting.append(lane)
                lane.start(inputs)
            while waiting:
                yield self._result(waiting.popleft(), copy)
        finally:
            # After an error: nothing may still write into buffers that the next run uses.
            for lane in waiting:
                with contextlib.suppress(EngineRunError):
                    lane.wait()

    def _result(self, lane: _Lane, copy: bool) -> Arrays:
        outputs = lane.finish()
        self.engine_ms = lane.engine_ms()
        return {name: array.copy() for name, array in outputs.items()} if copy else outputs

    def detect_many(self, batches: Sequence[Sequence[NetworkInput]]) -> Iterator[list[Detections]]:
        """For each batch, the detections of its pictures as :func:`helpers.graph.detect.detect_batch` gives them, one
        batch a run, up to ``lanes`` batches in flight. Errors as for :meth:`run`.
        """
        answers = self.run_many(map(detect.feeds, batches), copy=False)
        for batch, raw in zip(batches, answers, strict=True):
            yield detect.detections(raw, batch)


def _read_engine(path: Path) -> bytes:
    if not path.is_file():
        raise EngineFileError(f"there is no engine {path}", "build it with helpers.tensorrt.runner.make_engine")
    recorded = artifacts.recorded_inputs(path)
    if recorded is not None:
        here = machine()
        for name, have in here.items():
            if name in recorded and recorded[name] != have:
                raise EngineFileError(
                    f"{path.name} was built with {name} {recorded[name]}, and here is {have}",
                    "build it on this machine",
                )
        if not artifacts.is_current(path, recorded):
            raise EngineFileError(f"{path.name} is truncated or was changed", "delete it and build it again")
    return path.read_bytes()


class _Lane:
    """One execution context, its stream and its buffers, which only grow."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: _Log) -> None:
        self.cuda, self.engine, self.log = cuda, engine, log
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EngineRunError(f"TensorRT made no context and said: {log.words()}", "free some GPU memory")
        self.stream = cuda.Stream()
        self.begun, self.ended = cuda.Event(), cuda.Event()
        self.device: dict[str, Any] = {}
        self.device_bytes: dict[str, int] = {}
        self.host: dict[str, npt.NDArray[Any]] = {}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        raise NotImplementedError

    def finish(self) -> Arrays:
        """Wait; every output by name, in memory that the next :meth:`start` writes to."""
        raise NotImplementedError

    def execute(self, run: Callable[[], bool]) -> None:
        self.begun.record(self.stream)
        good = run()
        self.ended.record(self.stream)
        self.require(good, "running the engine")

    def engine_ms(self) -> float:
        return float(self.ended.time_since(self.begun))

    def on_device(self, name: str, size: int) -> int:
        if self.device_bytes.get(name, -1) < size:
            # Given back first, so that both need not fit; nothing is left of it if the new one does not.
            self.device.pop(name, None)
            self.device_bytes.pop(name, None)
            try:
                self.device[name] = self.cuda.mem_alloc(max(size, 1))
            except self.cuda.MemoryError as error:
                raise EngineRunError(
                    f"no GPU memory for {name} ({size / 1e6:.0f} MB)", "use a smaller batch or fewer lanes"
                ) from error
            self.device_bytes[name] = size
        return int(self.device[name])

    def pinned(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        held = self.host.get(name)
        if held is None or held.shape != tuple(shape) or held.dtype != np.dtype(dtype):
            held = self.host[name] = self.cuda.pagelocked_empty(tuple(shape), np.dtype(dtype))
        return held

    #: The engine's outputs, in its order.
    output_names: Sequence[str]

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        """Type and shape of each input."""
        raise NotImplementedError

    def send(self, name: str, array: npt.NDArray[Any]) -> int:
        staged = self.pinned(name, array.shape, array.dtype)
        np.copyto(staged, array)
        address = self.on_device(name, staged.nbytes)
        self.cuda.memcpy_htod_async(address, staged, self.stream)
        return address

    def require(self, good: bool, what: str) -> None:
        if not good:
            raise EngineRunError(
                f"{what} failed, TensorRT said: {self.log.words()}", "check the profile and the inputs"
            )

    def fetch(self, name: str, address: int, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        # An output without elements has no memory to copy.
        target = self.pinned(name, shape, dtype)
        if target.size:
            self.cuda.memcpy_dtoh_async(target, address, self.stream)

    def wait(self) -> None:
        try:
            self.stream.synchronize()
        except self.cuda.Error as error:
            raise EngineRunError(
                f"the engine failed on the GPU ({error})", "run with CUDA_LAUNCH_BLOCKING=1"
            ) from error
        if self.log.errors:
            raise EngineRunError(f"TensorRT said: {self.log.words()}", "see the operator that it names")


class _NamedLane(_Lane):
    """Tensors by name (8.5 and later); outputs of unknown size through an output allocator."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: _Log) -> None:
        super().__init__(cuda, engine, log)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.output_names = self.outputs = [name for name in names if name not in self.inputs]
        self.types = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in names}
        # No cycle: a lane that is dropped must free its context at once, before the engine goes.
        self.allocator = _output_allocator(weakref.proxy(self))
        self.late_shapes: dict[str, Shape] = {}

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        return {name: (self.types[name], tuple(self.engine.get_tensor_shape(name))) for name in self.inputs}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in checked_feeds("the engine", self.wanted(), inputs).items():
            self.require(self.context.set_input_shape(name, array.shape), f"setting the shape of {name}")
            self.require(self.context.set_tensor_address(name, self.send(name, array)), f"binding {name}")
        fixed = {}
        for name in self.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if -1 in shape:
                self.require(self.context.set_output_allocator(name, self.allocator), f"binding {name}")
            else:
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(self.types[name]).itemsize
                fixed[name] = (self.on_device(name, size), shape)
                self.require(self.context.set_tensor_address(name, fixed[name][0]), f"binding {name}")
        self.execute(lambda: self.context.execute_async_v3(self.stream.handle))
        for name, (address, shape) in fixed.items():
            self.fetch(name, address, shape, self.types[name])
        self.fixed = fixed

    def finish(self) -> Arrays:
        self.wait()
        late = [name for name in self.outputs if name not in self.fixed]
        for name in late:
            self.fetch(name, int(self.device[name]), self.late_shapes[name], self.types[name])
        if late:
            self.wait()
        return {name: self.host[name] for name in self.outputs}


def _output_allocator(lane: _NamedLane) -> trt.IOutputAllocator:
    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        @override
        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return lane.on_device(tensor_name, size)

        # From 10 on TensorRT calls this one; the stream needs no care, for each lane has one only.
        @override
        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return lane.on_device(tensor_name, size)

        @override
        def notify_shape(self, tensor_name: str, shape: Iterable[int]) -> None:
            lane.late_shapes[tensor_name] = tuple(shape)

    return Allocator()


class _BindingsEngine(Protocol):
    """What an engine of 8.4 has, and one of 10 has not; from the documentation of 8.4."""

    num_bindings: int

    def get_binding_name(self, index: int) -> str: ...
    def get_binding_dtype(self, index: int) -> trt.DataType: ...
    def get_binding_shape(self, index: int) -> Iterable[int]: ...
    def binding_is_input(self, index: int) -> bool: ...


class _BindingsContext(Protocol):
    """The same for an execution context."""

    def set_binding_shape(self, binding: int, shape: Shape) -> bool: ...
    def get_binding_shape(self, binding: int) -> Iterable[int]: ...
    def execute_async_v2(self, bindings: list[int], stream_handle: int) -> bool: ...


class _IndexedLane(_Lane):
    """Bindings by index (8.4), where every output has a fixed size."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: _Log) -> None:
        super().__init__(cuda, engine, log)
        self.bound = cast(_BindingsEngine, engine)
        self.bound_context = cast(_BindingsContext, self.context)
        count = self.bound.num_bindings
        self.names = [self.bound.get_binding_name(index) for index in range(count)]
        self.types = [trt.nptype(self.bound.get_binding_dtype(index)) for index in range(count)]
        self.taken = [index for index in range(count) if self.bound.binding_is_input(index)]
        self.output_names = [name for index, name in enumerate(self.names) if index not in self.taken]

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        return {self.names[i]: (self.types[i], tuple(self.bound.get_binding_shape(i))) for i in self.taken}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        given = checked_feeds("the engine", self.wanted(), inputs)
        bindings = [0] * len(self.names)
        for index in self.taken:
            array = given[self.names[index]]
            self.require(
                self.bound_context.set_binding_shape(index, array.shape), f"setting the shape of {self.names[index]}"
            )
            bindings[index] = self.send(self.names[index], array)
        outputs = [index for index in range(len(self.names)) if index not in self.taken]
        shapes_of = {index: tuple(self.bound_context.get_binding_shape(index)) for index in outputs}
        for index, shape in shapes_of.items():
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(self.types[index]).itemsize
            bindings[index] = self.on_device(self.names[index], size)
        self.execute(lambda: self.bound_context.execute_async_v2(bindings=bindings, stream_handle=self.stream.handle))
        for index, shape in shapes_of.items():
            self.fetch(self.names[index], bindings[index], shape, self.types[index])

    def finish(self) -> Arrays:
        self.wait()
        return {name: self.host[name] for name in self.output_names}


def device_memory() -> tuple[int, int]:
    """(free, total) bytes of the GPU, whoever uses them. Raises :class:`TensorRTMissingError`."""
    cuda = _cuda()
    # The context that the engines use; it takes memory itself, and is counted before and after alike.
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        free, total = cuda.mem_get_info()
    finally:
        context.pop()
    return int(free), int(total)
