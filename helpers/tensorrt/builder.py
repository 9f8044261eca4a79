"""Build TensorRT engines, with full TensorRT 8.4 to 11.

What differs between the versions is found with ``hasattr``, and one version number is read where nothing else tells:
the explicit-batch flag, precision flags and layer precisions (gone in 11, where types come from the graph), strongly
typed networks (from 9.0 on), the progress monitor. How far this is proven: :mod:`helpers.tensorrt.runtime`.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx
from tqdm import tqdm
from typing_extensions import override

from helpers import artifacts, paths
from helpers.errors import CourseError
from helpers.half_precision import plan as precision_plan
from helpers.half_precision.simulation import HalfPrecisionError
from helpers.tensorrt import limits
from helpers.tensorrt.operator_support import UnknownVersionError
from helpers.tensorrt.runtime import Log, build_plugin_library, load_plugins, machine, trt

__all__ = [
    "BuildOptions",
    "EngineBuildError",
    "Typing",
    "build_engine",
    "make_engine",
    "parse",
    "typings",
]

Shape = tuple[int, ...]
#: Who decides in which precision a layer computes; see :class:`BuildOptions`.
Typing = Literal["weak", "strong"]


class EngineBuildError(CourseError):
    """TensorRT refused the graph or the options, or could not build; its own words are in the message."""


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
    log = Log()
    builder = trt.Builder(log.logger)
    # The parser owns weights that the network refers to: it has to stay until the engine is built.
    network, _parser = _parsed(builder, graph, onnx_path, options, log)
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


def parse(onnx_path: Path, options: BuildOptions = BuildOptions()) -> int:
    """How many layers this TensorRT's parser makes of an ONNX file. Nothing is built, so that a machine does whose GPU
    this version does not support, as long as there is a driver. Plugins must be loaded before.

    Raises:
        what :func:`build_engine` raises before it builds.
    """
    options = _with_typing(options)
    graph = _for_this_version(onnx_path, options)
    log = Log()
    builder = trt.Builder(log.logger)
    network, _parser = _parsed(builder, graph, onnx_path, options, log)
    return int(network.num_layers)


def _parsed(
    builder: trt.Builder, graph: bytes, onnx_path: Path, options: BuildOptions, log: Log
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
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
    return network, parser


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
    plugin library (:func:`build_plugin_library` if ``plugins`` is None), this module and those that it imports. "auto"
    and the typing that it stands for are the same option.

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
        "sources": artifacts.module_sources(__name__),
    }
    folder = paths.build_dir(model_name)
    cache = folder / "tensorrt.timing"

    def build(temporary: Path) -> None:
        build_engine(onnx_path, temporary, options, timing_cache=cache)

    return artifacts.make(folder / f"{Path(onnx_path).stem}-{label or options.precision}.engine", inputs, build)
