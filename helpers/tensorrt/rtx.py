"""A real TensorRT parser and builder on a machine without a GPU: TensorRT for RTX.

TensorRT for RTX is a sibling of full TensorRT for consumer GPUs. Its ONNX parser and its builder need no GPU: the
builder writes an engine of kernels that are finished on the user's machine. It differs from full TensorRT in what
matters here: it registers no plugins (hence neither RoiAlign, which is one, nor ours), cannot run NonMaxSuppression,
and takes every tensor's type from the graph. It judges a graph and builds the convolutional trunk; it is no stand-in
for an engine of the whole model. The engine it builds can be opened (run, inspected) only where there is a GPU.

Everything runs in a child process, because some of its calls abort the process they are made in.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx.utils import Extractor

from helpers import paths
from helpers.artifacts import write_bytes
from helpers.errors import CourseError

__all__ = [
    "BuiltEngine",
    "ParseReport",
    "ParserComplaint",
    "RtxError",
    "available",
    "build",
    "mask_out",
    "parse",
    "trunk",
]

_MODULE = "tensorrt_rtx_bindings"


class RtxError(CourseError):
    """TensorRT for RTX is not installed, died, took too long, or refused to build; its own words are in the message."""


@dataclass(frozen=True)
class ParserComplaint:
    """One error of the parser, in its own words. index: the node's place in the graph."""

    operator: str
    node: str
    index: int
    code: str
    words: str


@dataclass(frozen=True)
class ParseReport:
    """accepted: the parser took the whole graph. layers: how many of the network's layers have which type, of what was
    parsed until then. log: warnings and errors of the logger, as ``"ERROR: ..."``.
    """

    accepted: bool
    complaints: tuple[ParserComplaint, ...]
    layers: dict[str, int]
    log: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class BuiltEngine:
    """layers: (name, type) of the network that the engine was built from, in order. inspected: the engine's own layers
    as the engine inspector describes them, None where the engine cannot be opened (that needs a GPU and its driver);
    ``log`` then holds the runtime's words.
    """

    path: Path
    bytes: int
    layers: tuple[tuple[str, str], ...]
    inspected: tuple[Any, ...] | None
    log: tuple[str, ...]
    version: str


def available() -> bool:
    """Whether the Python package is installed (it is not imported)."""
    return importlib.util.find_spec(_MODULE) is not None


def parse(model: onnx.ModelProto, *, timeout: float = 120) -> ParseReport:
    """Let the parser read a graph; it lists the nodes that it cannot take.

    Raises:
        RtxError: it is not installed, or its process died or took longer than ``timeout`` seconds.
    """
    answer = _ask("parse", model, None, timeout)
    return ParseReport(
        answer["accepted"],
        tuple(ParserComplaint(**complaint) for complaint in answer["complaints"]),
        answer["layer_types"],
        tuple(answer["log"]),
        answer["version"],
    )


def build(model: onnx.ModelProto, path: Path, *, timeout: float = 300) -> BuiltEngine:
    """Build an engine and write it to ``path``, whole or not at all.

    Raises:
        RtxError: as for :func:`parse`, or the graph was refused.
    """
    with TemporaryDirectory() as folder:
        made = Path(folder) / "engine"
        answer = _ask("build", model, made, timeout)
        if not made.is_file():
            words = [complaint["words"] for complaint in answer["complaints"]] or answer["log"] or ["nothing"]
            raise RtxError(f"TensorRT for RTX built no engine and said: {words[0]}", "give it a part that it can take")
        write_bytes(Path(path), made.read_bytes())
    layers = tuple((name, kind) for name, kind in answer["layers"])
    inspected = None if answer["inspected"] is None else tuple(answer["inspected"])
    return BuiltEngine(
        Path(path), Path(path).stat().st_size, layers, inspected, tuple(answer["log"]), answer["version"]
    )


def trunk(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of an exported Mask R-CNN from the input to the RPN's convolutions: backbone, neck, scores and deltas.

    Outputs: of each pyramid level, the RPN's class scores and its box deltas, before the sigmoid.

    Raises:
        RtxError: the graph has no RPN convolutions under mmdet's names.
    """
    ends = [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and node.name.startswith(("/rpn_head/rpn_cls", "/rpn_head/rpn_reg"))
    ]
    if not ends:
        raise RtxError(
            "the graph has no convolutions named /rpn_head/...", "export it with helpers.export.exporter.make_onnx"
        )
    return Extractor(model).extract_model([model.graph.input[0].name], ends)


def mask_out(model: onnx.ModelProto, operators: Collection[str]) -> onnx.ModelProto:
    """A copy without the nodes of these operators; what they computed becomes an input of the graph.

    A way to ask a parser what it thinks of the rest. The new inputs are float32, with the shapes that the graph tells.
    """
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    known = {value.name: value for value in masked.graph.value_info}
    kept = []
    for node in masked.graph.node:
        if node.op_type not in operators:
            kept.append(node)
            continue
        for name in node.output:
            value = known.get(name)
            # Custom operators have no shape inference in ONNX.
            shape = _roi_shape(model, node) if value is None else None
            masked.graph.input.append(value or onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    del masked.graph.node[:]
    masked.graph.node.extend(kept)
    return masked


def _roi_shape(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int] | None:
    """(RoIs, channels, height, width) of a RoIAlign node, as far as the graph tells."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "output_height" not in given:
        return None
    known = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    features, rois = (known.get(name) for name in node.input[:2])
    if features is None or rois is None:
        return None
    return [rois[0].dim_value, features[1].dim_value, given["output_height"], given["output_width"]]


def _ask(task: str, model: onnx.ModelProto, engine: Path | None, timeout: float) -> dict[str, Any]:
    if not available():
        raise RtxError("TensorRT for RTX is not installed", "run scripts/setup.sh, or skip this part")
    with TemporaryDirectory() as folder:
        graph, answer = Path(folder) / "graph.onnx", Path(folder) / "answer.json"
        graph.write_bytes(model.SerializeToString())
        root = str(paths.REPO_ROOT)
        command = [sys.executable, "-c", _CHILD, root, task, str(graph), str(answer), str(engine or "")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise RtxError(f"TensorRT for RTX took longer than {timeout:g} s", "raise timeout, or ask less") from None
        if done.returncode != 0 or not answer.is_file():
            raise RtxError(f"the process of TensorRT for RTX {_ended(done)}", "ask it about a smaller part")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


_CHILD = "import sys; sys.path.insert(0, sys.argv.pop(1)); from helpers.tensorrt import rtx; rtx._child()"


def _ended(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode < 0:
        return f"was ended by {signal.Signals(-done.returncode).name} ({last})"
    return f"failed with exit code {done.returncode} ({last})"


def _child() -> None:
    """What the child process does: its arguments are the task, the graph, the answer and the engine."""
    task, graph, answer, engine = sys.argv[1:5]
    trt: Any = importlib.import_module(_MODULE)
    log: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, words: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                log.append(f"{severity.name}: {words}")

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    accepted = parser.parse(Path(graph).read_bytes())
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.type.name] = counts.get(layer.type.name, 0) + 1
    result: dict[str, Any] = {
        "version": trt.__version__,
        "accepted": accepted,
        "complaints": [
            {
                "operator": error.node_operator(),
                "node": error.node_name(),
                "index": error.node(),
                "code": error.code().name,
                "words": error.desc(),
            }
            for error in errors
        ],
        "layer_types": counts,
        "layers": [(layer.name, layer.type.name) for layer in layers],
        "inspected": None,
    }
    if task == "build" and accepted:
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        serialized = builder.build_serialized_network(network, config)
        if serialized is not None:
            Path(engine).write_bytes(bytes(serialized))
            opened = trt.Runtime(logger).deserialize_cuda_engine(serialized)
            if opened is not None:
                text = opened.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
                result["inspected"] = json.loads(text)["Layers"]
    Path(answer).write_text(json.dumps({**result, "log": log}))
