"""ONNX Runtime on the CPU, for both export flavours, with arrays in and :class:`helpers.detector.detections.Detections`
out.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoImplementation

from helpers.compat import ensure_torchvision
from helpers.errors import first_line
from helpers.graph.file import load_onnx
from helpers.graph.index import GraphIndex
from helpers.graph.runner import Arrays, RunnerError, checked_feeds, checked_outputs
from helpers.operators import library as plugin_library
from helpers.operators.limits import FAR_ROI

__all__ = ["OnnxRunner", "open_session", "owned", "run_session"]

# What ONNX Runtime raises of a graph, and of a result that numpy has no type for. They have no base of their own.
_ERRORS = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoImplementation, RuntimeException, RuntimeError)


class OnnxRunner:
    """One graph, ready to run.

    model: a path or a loaded graph. optimise: let ONNX Runtime fuse and rewrite nodes; switch it off to see the tensors
    of the graph as it is. threads: 0 means as many as ``OMP_NUM_THREADS`` says, as for PyTorch; without it ONNX
    Runtime decides.

    Of the domain ``mmcv``, RoIAlign is computed in Python by mmcv's own function, through onnxruntime-extensions, whose
    operators live in the domain ``ai.onnx.contrib``; grid_sampler by ONNX Runtime's operator of the same arithmetic;
    MultiLevelRoIAlign (:func:`helpers.tensorrt.plugin_graph.one_roi_align_per_head`) by our own host library. The nodes
    are renamed in the copy that is run. RoIs that mmcv's function stops at, which would end the process, or for which
    it reads outside of the features, are left out of it: one of a picture outside of the batch gives zeros, as in our
    plugin; one that is not finite NaN features; one beyond :data:`FAR_ROI` or the wrong way round zeros.

    Raises:
        helpers.graph.file.OnnxFileError: the file is missing or truncated.
        helpers.operators.library.PluginBuildError: the graph has MultiLevelRoIAlign, and there is no C++ compiler.
        RunnerError: ONNX Runtime refuses the graph, or the graph has RoIAlign, and there is no mmcv.
    """

    def __init__(self, model: Path | str | onnx.ModelProto, *, optimise: bool = True, threads: int = 0) -> None:
        self.name = "the graph in memory" if isinstance(model, onnx.ModelProto) else str(model)
        graph = model if isinstance(model, onnx.ModelProto) else load_onnx(Path(model))
        self.session = open_session(graph, optimise=optimise, threads=threads, name=self.name)
        self._wanted = GraphIndex(graph).declared()
        self.input_shapes = {name: shape for name, (_, shape) in self._wanted.items() if shape is not None}
        self.output_names = tuple(output.name for output in self.session.get_outputs())

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None) -> Arrays:
        """As :meth:`helpers.graph.runner.Runner.run`.

        Raises:
            helpers.graph.runner.GraphInputError: a missing input, a wrong shape or type, an output there is not.
            helpers.graph.runner.RunnerError: a node stops the run.
        """
        wanted = checked_outputs(self.name, self.output_names, outputs)
        return owned(run_session(self.session, wanted, checked_feeds(self.name, self._wanted, feeds)))


def open_session(
    graph: onnx.ModelProto,
    *,
    optimise: bool = True,
    threads: int = 0,
    name: str = "the graph in memory",
    in_order: bool = False,
) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with operators for the domain ``mmcv``; see :class:`OnnxRunner`.

    in_order: run the nodes in the order of the file, so that who adds nodes decides how long a tensor is kept for them.

    Raises:
        RunnerError: as for :class:`OnnxRunner`.
        helpers.operators.library.PluginBuildError: as for :class:`OnnxRunner`.
    """
    options = ort.SessionOptions()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = threads or (int(wanted) if wanted.isdecimal() else 0)
    # Where the C library has been told to keep memory, an arena would keep the same again, for each session its own.
    options.enable_cpu_mem_arena = "MALLOC_TRIM_THRESHOLD_" not in os.environ
    options.log_severity_level = 4  # an error is raised, with the same words: not printed as well
    # Its threads would ask for work for a while after a run, on the cores that pasting or another session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if in_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if any(node.domain == "mmcv" for node in graph.graph.node):
        if any(node.op_type == "MultiLevelRoIAlign" for node in graph.graph.node):
            # Here, where its error can be raised: from within ONNX Runtime it would end the process.
            plugin_library.build_host_library()
        if any(node.op_type == "MMCVRoiAlign" for node in graph.graph.node):
            _mmcv_roi_align()
        options.register_custom_ops_library(_python_operators())
        graph = _runnable(graph)
    try:
        return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except _ERRORS as error:
        if unknown := re.search(r"(\S+?):(\w+)\(-?\d+\) is not a registered function/op", str(error)):
            raise RunnerError(
                f"ONNX Runtime has no operator {unknown[2]}, which {name} needs",
                "use a model without it, or run the graph where a plugin for it is",
            ) from error
        raise RunnerError(
            f"ONNX Runtime cannot load {name} ({first_line(error)})",
            "export it again for the input shape that it is to get",
        ) from error


def run_session(
    session: ort.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The named outputs of one run, in the session's memory: see :func:`owned`.

    Raises:
        RunnerError: a node cannot compute with these values (shapes that do not fit each other, say), or an output is
            no tensor, or one of a type that numpy has not.
    """
    try:
        # An empty list stands for all outputs there.
        results = dict(zip(outputs, session.run(list(outputs), dict(feeds)) if outputs else (), strict=True))
    except _ERRORS as error:
        raise RunnerError(f"ONNX Runtime stopped inside the graph ({first_line(error)})", "check the input") from error
    for name, value in results.items():
        if not isinstance(value, np.ndarray):
            raise RunnerError(f"{name!r} is a sequence of tensors and no tensor", "export the model without sequences")
    return results


def owned(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Copies of a run's results. As long as one of ONNX Runtime's own arrays lives, so does all the memory that its
    session ever took (measured: 2.0 GB for the 0.4 GB of 100 masks)."""
    return {name: np.array(array) for name, array in arrays.items()}


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the ``mmcv`` flavour in operators that ONNX Runtime can be given."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        if node.domain == "mmcv" and node.op_type == "grid_sampler":
            # ONNX Runtime's own, older than ONNX's: a Python operator hands its 100 full-size masks over as a list of
            # Python numbers, which takes 20 s and 5 GB.
            settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            del node.attribute[:]
            node.op_type, node.domain = "GridSample", "com.microsoft"
            node.attribute.extend(
                (
                    onnx.helper.make_attribute("mode", _INTERPOLATION[settings["interpolation_mode"]]),
                    onnx.helper.make_attribute("padding_mode", _PADDING[settings["padding_mode"]]),
                    onnx.helper.make_attribute("align_corners", settings["align_corners"]),
                )
            )
        elif node.domain == "mmcv" and node.op_type == "MultiLevelRoIAlign":
            _fit_multi_level_roi_align(node)
        elif node.domain == "mmcv":
            node.domain = "ai.onnx.contrib"
    domains = ("ai.onnx.contrib", "com.microsoft")
    renamed.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in domains)
    return renamed


def _fit_multi_level_roi_align(node: onnx.NodeProto) -> None:
    """onnxruntime-extensions has neither a variable number of inputs nor lists as attributes: the operator's name tells
    the number of levels, and the strides become text.

    An operator in Python that raises an error ends the whole process, so what can be checked is checked here.
    """
    strides = next((attribute for attribute in node.attribute if attribute.name == "strides"), None)
    levels, given = len(node.input) - 1, 0 if strides is None else len(strides.floats)
    if strides is None or levels != given or not 1 <= levels <= plugin_library.MAX_LEVELS:
        raise RunnerError(
            f"the MultiLevelRoIAlign {node.name or node.output[0]} has {levels} feature maps and {given} strides",
            f"give it one stride for each of 1 to {plugin_library.MAX_LEVELS} feature maps",
        )
    node.op_type, node.domain = f"MultiLevelRoIAlign{levels}", "ai.onnx.contrib"
    strides.CopyFrom(onnx.helper.make_attribute("strides", " ".join(map(repr, strides.floats))))


# torch's enumerations (aten/src/ATen/native/GridSamplerUtils.h), which mmcv's attributes repeat.
_INTERPOLATION = ("bilinear", "nearest", "bicubic")
_PADDING = ("zeros", "border", "reflection")


@functools.cache
def _mmcv_roi_align() -> Any:
    ensure_torchvision()
    try:
        from mmcv.ops import roi_align
    except ImportError as error:
        raise RunnerError(
            "there is no mmcv here, which computes MMCVRoiAlign",
            "set the course's environment up, or use a graph of the standard flavour",
        ) from error
    return roi_align


@functools.cache
def _python_operators() -> str:
    """Define mmcv's operators for onnxruntime-extensions, once in a process; returns the library to register."""
    from onnxruntime_extensions import PyCustomOpDef, get_library_path, onnx_op

    floating, integer, text = PyCustomOpDef.dt_float, PyCustomOpDef.dt_int64, PyCustomOpDef.dt_string

    @onnx_op(
        op_type="MMCVRoiAlign",
        inputs=[floating, floating],
        outputs=[floating],
        attrs={
            "output_height": integer,
            "output_width": integer,
            "spatial_scale": floating,
            "sampling_ratio": integer,
            "mode": text,
            "aligned": integer,
        },
    )
    def roi_align(features: Any, rois: Any, **attributes: Any) -> Any:
        import torch

        features, rois = np.asarray(features), np.asarray(rois)
        size = (int(attributes["output_height"]), int(attributes["output_width"]))
        corners = rois[:, 1:].reshape(-1, 2, 2)
        # Both are False for NaN. The former is as plugins/roi_align/roi_align_math.h has it.
        of_batch = (rois[:, 0] > -1) & (rois[:, 0] < len(features))
        good = of_batch & (np.abs(corners) < FAR_ROI).all(axis=(1, 2))
        if attributes["aligned"]:
            good &= (corners[:, 0] <= corners[:, 1]).all(axis=1)
        result = np.zeros((len(rois), features.shape[1], *size), np.float32)
        result[of_batch & ~np.isfinite(corners).all(axis=(1, 2))] = np.nan
        result[good] = _mmcv_roi_align()(
            torch.from_numpy(features),
            torch.from_numpy(rois[good]),
            size,
            float(attributes["spatial_scale"]),
            int(attributes["sampling_ratio"]),
            _text(attributes["mode"]),
            bool(attributes["aligned"]),
        ).numpy()
        return result

    def multi_level_roi_align(rois: Any, *features: Any, **attributes: Any) -> Any:
        return plugin_library.multi_level_roi_align(
            [np.asarray(level) for level in features],
            np.asarray(rois),
            (int(attributes["output_height"]), int(attributes["output_width"])),
            [float(stride) for stride in _text(attributes["strides"]).split()],
            finest_scale=float(attributes["finest_scale"]),
            sampling_ratio=int(attributes["sampling_ratio"]),
            mode="max" if _text(attributes["mode"]) == "max" else "avg",
            aligned=bool(attributes["aligned"]),
        )

    for levels in range(1, plugin_library.MAX_LEVELS + 1):
        onnx_op(
            op_type=f"MultiLevelRoIAlign{levels}",
            inputs=[floating] * (1 + levels),
            outputs=[floating],
            attrs={
                "output_height": integer,
                "output_width": integer,
                "strides": text,
                "finest_scale": floating,
                "sampling_ratio": integer,
                "mode": text,
                "aligned": integer,
            },
        )(multi_level_roi_align)

    return str(get_library_path())


def _text(attribute: bytes | str) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else attribute
