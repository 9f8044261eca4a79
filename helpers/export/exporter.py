"""From an mmdet detector to an ONNX file, with the origin of every node written into it.

Two flavours of one network, static at 1x3x800x1216 or with the batch alone dynamic (:func:`dynamic_options`):

- ``standard``: opset 16, standard operators only. Runs in ONNX Runtime as it is.
- ``mmcv``: opset 11 with ``mmcv::MMCVRoiAlign`` and ``mmcv::grid_sampler``, for runtimes that have plugins for them.

Inputs and outputs of both: ``input`` (1, 3, 800, 1216) float32 as :func:`helpers.detector.preprocess.prepare` makes it;
``image_size`` (1, 2) float32, height and width of the resized picture in input pixels, to which boxes are clipped;
``dets`` (1, 100, 5) float32, x1 y1 x2 y2 in input pixels and score; ``labels`` (1, 100) int64; ``masks`` (1, 100, 800,
1216) float32, 0 or 1, or lean. Rows past the last detection have score 0. The second input comes with the patch
``p10_clip_to_picture``. (Sizes are whole numbers: exact in float32, and in half precision up to 2048.)

mmdet's own export path needs patches: :data:`NEEDED` lets it run at all, :data:`CORRECT` makes it compute what
inference computes, :data:`KINDS` does both for kinds of model that the course's own are not. They are choices of the
caller, so that the broken export can be made and studied.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import unittest.mock
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxsim
import torch
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic
from tqdm import tqdm

import patches
from helpers import artifacts
from helpers.detector import paste
from helpers.detector.models import INPUT_SHAPE, load_detector, preprocessing_of, weights_digest
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.errors import CourseError, first_line
from helpers.export.settings import require_supported, table, values_at
from helpers.graph import detect
from helpers.graph.file import INPUT_NAMES, OUTPUT_NAMES
from helpers.graph.frozen_batch import frozen_batches, require_free_batch
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.origins import write_origins
from helpers.graph.runner import RunnerError
from helpers.paths import DATA, build_dir

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "BOXES_MOVED",
    "CORRECT",
    "DYNAMIC",
    "FASTER",
    "FLAVOURS",
    "HALF",
    "KINDS",
    "LEAN",
    "NEEDED",
    "ExportError",
    "Flavour",
    "UnknownFlavourError",
    "bound_meta",
    "default_patches",
    "dynamic_options",
    "export_inputs",
    "export_onnx",
    "full_input_meta",
    "make_onnx",
    "mmcv_symbolics",
    "quiet_exporter",
    "takes_image_size",
]

# Raised when this module changes what it writes, so that files made by an older version are made again.
_FORMAT = 7


class UnknownFlavourError(CourseError):
    """The flavour is not one of :data:`FLAVOURS`, or the opset is not one it can be written in."""


class ExportError(CourseError):
    """The exporter failed, or simplification changed what the graph computes."""


@dataclass(frozen=True)
class Flavour:
    """opset: default version of ONNX's operator set; opsets: (lowest, highest) that the flavour can be written in."""

    name: str
    opset: int
    opsets: tuple[int, int]


FLAVOURS = {
    # GridSample exists from opset 16 on. 20 renames its interpolation modes; torch writes up to 20 here.
    "standard": Flavour("standard", 16, (16, 19)),
    # From 13 on Unsqueeze and Squeeze have their axes as an input; TensorRT 7 and 8.0 want them as attributes.
    "mmcv": Flavour("mmcv", 11, (11, 15)),
}
#: The patches without which the export stops, by flavour.
NEEDED = {"standard": ("p04_no_operator_probe",), "mmcv": ("p06_mmcv_operators",)}
_CLIP = "p10_clip_to_picture"
_UNMOVED = "p14_boxes_not_moved"
_BOTH = (_CLIP, "p11_no_ghosts", "p12_cascade_mask_mean", "p13_unused_nms_rows", _UNMOVED)
#: The patches with which the exported graph computes what PyTorch's inference computes, by flavour.
CORRECT = {
    "standard": (*NEEDED["standard"], "p07_rpn_levels_apart", "p08_roi_align_half_pixel", *_BOTH),
    "mmcv": (*NEEDED["mmcv"], "p07_rpn_levels_apart", *_BOTH),
}
#: As :data:`CORRECT`, but every detection's box has been moved by its class and back, as mmdet exports it and as the
#: article's graph has it. In FP32 that costs 0.004 px; in half precision it is where NaN begins.
BOXES_MOVED = {flavour: tuple(name for name in names if name != _UNMOVED) for flavour, names in CORRECT.items()}
#: The patches for kinds of model that the course's own are not, whose graphs they leave as they are. Applied after
#: :data:`CORRECT`, unless patches are named.
KINDS = ("p50_group_norm_in_steps", "p51_pooling_by_windows", "p52_cascade_batch", "p53_swin_batch")
#: The patches that keep every size but the batch a constant, applied after :data:`CORRECT` for a dynamic batch.
DYNAMIC = (
    "p20_constant_top_k",
    "p21_constant_input_size",
    "p22_decode_by_broadcasting",
    "p23_anchors_and_candidates",
    "p24_nms_helper_batch",
    "p25_roi_head_batch",
)
#: The patches with which no tensor leaves the range of half precision, applied after :data:`CORRECT` (and after
#: :data:`DYNAMIC`, if that is wanted too).
HALF = (
    "p30_nms_by_class",
    "p31_rpn_levels_by_row",
    "p32_select_instead_of_multiply",
    "p33_paste_narrow_boxes",
    "p34_roi_scale_without_area",
)

#: The patch that ``masks="lean"`` exports with.
LEAN = "p40_lean_masks"
#: In the ``standard`` flavour, which is ONNX Runtime's, lean graphs have these too: the same results sooner. The first
#: needs NonZero, whose result has a size that TensorRT learns at run time only, and sorts all RoIs of a batch, where
#: TensorRT sorts 3840 at most: the ``mmcv`` flavour goes without.
FASTER = ("p41_roi_align_by_level", "p42_mask_of_the_class")


def default_patches(flavour: str) -> tuple[str, ...]:
    """The patches that a graph is exported with unless some are named: :data:`CORRECT` and :data:`KINDS`.

    Raises:
        UnknownFlavourError: no such flavour.
    """
    return (*CORRECT[_flavour(flavour).name], *KINDS)


def dynamic_options(flavour: str = "standard") -> dict[str, Any]:
    """Arguments for :func:`make_onnx` and :func:`export_onnx`: only the batch axis of inputs and outputs is dynamic.

    Give :func:`make_onnx` a ``label`` of its own beside them, such as ``"dynamic"``.

    Raises:
        UnknownFlavourError: no such flavour.
    """
    axes = {name: {0: "batch"} for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
    return {"applied": (*default_patches(flavour), *DYNAMIC), "dynamic_axes": axes}


def _flavour(name: str, opset: int | None = None) -> Flavour:
    if name not in FLAVOURS:
        raise UnknownFlavourError(f"there is no export flavour {name!r}", f"use one of: {', '.join(FLAVOURS)}")
    flavour = FLAVOURS[name]
    low, high = flavour.opsets
    if opset is not None and not low <= opset <= high:
        raise UnknownFlavourError(
            f"the flavour {name!r} cannot be written in opset {opset}", f"use an opset from {low} to {high}"
        )
    return flavour


def full_input_meta(shape: Sequence[int] = INPUT_SHAPE) -> dict[str, Any]:
    """The ``img_metas`` entry of a picture that fills the input: no padding, no rescaling."""
    height, width = shape[2:]
    return {
        "img_shape": (height, width, 3),
        "ori_shape": (height, width, 3),
        "pad_shape": (height, width, 3),
        "scale_factor": [1.0] * 4,
        "flip": False,
        "flip_direction": None,
        "filename": None,
    }


def takes_image_size() -> bool:
    """Whether what is exported now takes the pictures' sizes: whether the patch that clips to them is in force."""
    return patches.load(_CLIP).applied


@contextlib.contextmanager
def bound_meta(detector: BaseDetector, meta: dict[str, Any]) -> Iterator[BaseDetector]:
    """The detector with a ``forward`` that takes one tensor (N, 3, H, W), and with ``p10_clip_to_picture`` in force a
    second, the pictures' sizes (N, 2).

    The meta data is bound by a closure. ``functools.partial``, as mmdet's own script has it, keeps ``img_metas`` in the
    signature, and the exporter would try to trace it.
    """
    forward = detector.forward

    def forward_picture(image: torch.Tensor, image_size: torch.Tensor | None = None) -> Any:
        # mmdet writes into the meta data while it exports.
        return forward([image], [[{**meta, "image_size": image_size}]], return_loss=False)

    detector.forward = forward_picture
    try:
        yield detector
    finally:
        del detector.forward


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without torch's print of the whole graph (20,000 lines on a failure) and without tracer warnings.

    The print comes from ``torch.onnx`` whatever ``verbose`` says: it tests a function where it means to call it.
    """
    with unittest.mock.patch.object(torch._C, "_jit_onnx_log"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def mmcv_symbolics(opset: int) -> Iterator[None]:
    """mmcv's ``register_extra_symbolics(opset)``, taken back at the end: torch keeps them for the whole process."""
    from mmcv.onnx import symbolic

    registered: list[tuple[str, int]] = []
    register = symbolic.register_custom_op_symbolic

    def remember(name: str, function: Callable[..., Any], opset_version: int) -> None:
        register(name, function, opset_version)
        registered.append((name, opset_version))

    try:
        with unittest.mock.patch.object(symbolic, "register_custom_op_symbolic", remember), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            symbolic.register_extra_symbolics(opset)
        yield
    finally:
        for name, version in registered:
            unregister_custom_op_symbolic(name, version)


def _grid_sampler(g: Any, image: Any, grid: Any, mode: Any, padding_mode: Any, align_corners: Any) -> Any:
    """``mmcv::grid_sampler`` with the attributes that mmcv's own symbolic writes."""
    constant = torch.onnx.symbolic_helper._maybe_get_const
    return g.op(
        "mmcv::grid_sampler",
        image,
        grid,
        interpolation_mode_i=constant(mode, "i"),
        padding_mode_i=constant(padding_mode, "i"),
        align_corners_i=constant(align_corners, "i"),
    )


@contextlib.contextmanager
def _symbolics(flavour: Flavour, opset: int) -> Iterator[None]:
    if flavour.name != "mmcv":
        yield
        return
    # Of mmcv's symbolics only this one is wanted; register_extra_symbolics would replace torch's own by outdated ones.
    register_custom_op_symbolic("::grid_sampler", _grid_sampler, opset)
    try:
        yield
    finally:
        unregister_custom_op_symbolic("::grid_sampler", opset)


def export_onnx(
    detector: BaseDetector,
    path: Path,
    flavour: str = "standard",
    *,
    applied: Sequence[str] | None = None,
    opset: int | None = None,
    input_shape: Sequence[int] = INPUT_SHAPE,
    dynamic_axes: dict[str, dict[int, str]] | None = None,
    masks: Literal["full", "lean"] = "full",
    simplify: bool = True,
    probes: Iterable[NetworkInput] | None = None,
) -> Path:
    """Export a detector to ``path``, whole or not at all.

    ``applied`` names the patches to export with, in order; the default is :data:`CORRECT` and :data:`KINDS`.
    ``input_shape`` is (N, 3, H, W). ``dynamic_axes`` is torch's; without it every shape is fixed. Each node's
    ``doc_string`` tells where it comes from; see :func:`origin`.

    probes: prepared pictures, on which ONNX Runtime runs the graph before and after simplification, up to the first in
    which there is something: both must find the same. Without them, simplification is trusted.

    masks: "full", pasted into the input; "lean", as the mask head computes them, (N, 100, 28, 28) float32 probabilities
    of the detected class, 0 in rows that are no detection, for :mod:`helpers.detector.paste` (the patch :data:`LEAN`).

    Raises:
        UnknownFlavourError: no such flavour, or an opset that it cannot be written in.
        helpers.export.settings.UnsupportedSettingError: the export would not do what a setting says. Comes first.
        helpers.graph.frozen_batch.BatchCheckError: the batch was to be dynamic, and a node holds that of the tracing.
        ExportError: torch or onnxsim failed; the cause is chained. Or nothing is found in the probes. Or lean masks are
            asked of a detector that has none, or whose config sets another threshold than the one that they are pasted
            at.
        patches.UnknownPatchError, patches.PatchStateError: about ``applied``.
    """
    chosen = _flavour(flavour, opset)
    version = opset or chosen.opset
    names = _chosen(flavour, applied, masks)
    require_supported(detector, flavour)
    if LEAN in names:
        _check_lean(detector)
    steps = tqdm(total=3 if simplify else 2, desc=f"export {flavour}", unit="step", leave=False)
    with steps, artifacts.whole_file(Path(path)) as temporary:
        steps.set_postfix_str("tracing")
        with patches.applied(*names), _symbolics(chosen, version), bound_meta(detector, full_input_meta(input_shape)):
            try:
                _trace(detector, temporary, version, input_shape, dynamic_axes)
            except OSError:  # a full disk, say: no patch is to blame
                raise
            except Exception as error:
                # Behind the cause PyTorch asks for an issue at its own, and describes the value at length.
                reason = re.split(r"\.* *(?:Please feel free|\[Caused by)", first_line(error))[0]
                raise ExportError(
                    f"the export stopped with {type(error).__name__}: {reason}",
                    "see the chained error, and which of the patches was left out",
                ) from error
        steps.update()
        model = onnx.load(temporary)
        detections = _detections(model, int(detector.roi_head.test_cfg.max_per_img))
        modules = [name for name, _ in detector.named_modules() if name]
        traced_batch = input_shape[0] if 0 in (dynamic_axes or {}).get("input", {}) else None
        # Before simplification, which leaves out a Reshape to the size that a tensor had in the tracing, and spreads
        # that size into constants where it cannot be told from others; and after it, which computes new constants.
        _require_free_batch(model, traced_batch, modules)
        if simplify:
            steps.set_postfix_str("simplifying")
            traced, model = model, _simplified(model)
            if probes is not None:
                _require_same(traced, model, probes)
            steps.update()
            _require_free_batch(model, traced_batch, modules)
        if dynamic_axes is None or _only_batch(dynamic_axes):
            batch = next(iter(dynamic_axes["input"].values())) if dynamic_axes else input_shape[0]
            mask_size = _lean_size(detector) if LEAN in names else input_shape[2:]
            _declare_shapes(model, batch, detections, mask_size)
        _name_nodes(model)
        write_origins(model, modules)
        onnx.helper.set_model_props(model, {"course.flavour": flavour, "course.patches": " ".join(names)})
        onnx.save(model, temporary)
        steps.update()
    return Path(path)


def _require_free_batch(model: onnx.ModelProto, traced_batch: int | None, modules: Sequence[str]) -> None:
    """If the batch was to be dynamic: no node holds that of the tracing. The error names the node and its origin."""
    if traced_batch is not None and frozen_batches(model, traced_batch):
        write_origins(model, modules)
        require_free_batch(model, traced_batch)


def _trace(
    detector: BaseDetector,
    path: Path,
    opset: int,
    input_shape: Sequence[int],
    dynamic_axes: dict[str, dict[int, str]] | None,
) -> None:
    # Tracing draws random numbers (the stand-in for NMS results); the caller's generator must not notice.
    with quiet_exporter(), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        device = next(detector.parameters()).device
        examples = [torch.rand(*input_shape, device=device) * 4 - 2]
        if takes_image_size():
            examples.append(torch.tensor([input_shape[2:]] * input_shape[0], dtype=torch.float32, device=device))
        inputs = INPUT_NAMES[: len(examples)]
        outputs = [name for name in OUTPUT_NAMES if name != "masks" or detector.with_mask]
        named = {name: axes for name, axes in (dynamic_axes or {}).items() if name in (*inputs, *outputs)}
        torch.onnx.export(
            detector,
            tuple(examples),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=named or None,
            opset_version=opset,
            custom_opsets={"mmcv": 1},
            # The exporter that traces Python. torch's newer one wants a model without data-dependent control flow.
            dynamo=False,
            # Inlined autograd functions (NMS, RoIAlign) lose their symbolics and fail an internal assertion of torch's.
            autograd_inlining=False,
            # Writes each node's Python stack into its doc_string.
            verbose=True,
        )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing written to the process's standard error, by C++ too: onnxsim prints a line for each node that it cannot
    fold, which is no news; what goes wrong it raises."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        with _silent_stderr():
            # onnxsim's own check feeds noise, in which a detector finds nothing, and knows no custom operators.
            simplified, _ = onnxsim.simplify(model, check_n=0)
    except Exception as error:
        raise ExportError("onnxsim failed on the exported graph", "export with simplify=False") from error
    if next(one.version for one in simplified.opset_import if one.domain == "") >= 14:
        for node in simplified.graph.node:
            # torch writes this attribute, onnxsim's own Reshapes leave it to its default: TensorRT 8.4.1 stops there.
            if node.op_type == "Reshape" and not node.attribute:
                node.attribute.append(onnx.helper.make_attribute("allowzero", 0))
    return simplified


def _require_same(traced: onnx.ModelProto, simplified: onnx.ModelProto, probes: Iterable[NetworkInput]) -> None:
    """Both graphs find the same objects of score 0.3 and more in the pictures, up to the first that has any, for a
    picture without says little: their number and labels, scores within 0.001, corners within half an input pixel, each
    mask but for two values or one in a hundred of those set. (Below, two of nearly the same score may change places.) A
    traced graph that ONNX Runtime cannot run is not checked.
    """
    for probe in probes:
        sure = _same_on(traced, simplified, probe)
        if sure is None or sure > 0:
            return
    raise ExportError(
        "the pictures that simplification is checked on have no object that the traced graph is sure of",
        "check it on others (probes), or export with simplify=False",
    )


def _same_on(traced: onnx.ModelProto, simplified: onnx.ModelProto, probe: NetworkInput) -> int | None:
    """How many objects both find; None where the traced graph does not run."""
    size = traced.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    given = {name: np.repeat(array, max(size, 1), axis=0) for name, array in detect.feeds([probe]).items()}
    try:
        first = _sure(OnnxRunner(traced).run(given))
    except RunnerError:
        return None
    try:
        second = _sure(OnnxRunner(simplified).run(given))
    except RunnerError as error:
        raise ExportError(
            "the simplified graph stops where the traced one runs", "export with simplify=False"
        ) from error
    if not all(_near(first[name], second[name]) for name in first):
        raise ExportError("the simplified graph computes something else", "export with simplify=False")
    return len(first["dets"])


def _sure(found: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The rows of score 0.3 and more; and where they are, as ``rows``."""
    sure = found["dets"][..., 4] >= 0.3
    return {"rows": np.argwhere(sure), **{name: array[sure] for name, array in found.items()}}


def _near(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.dtype != np.float32 or a.shape != b.shape:  # rows, labels
        return np.array_equal(a, b)
    if a.ndim == 2:  # x1 y1 x2 y2 score
        return bool((np.abs(a - b) <= (0.5, 0.5, 0.5, 0.5, 1e-3)).all())
    # One mask after the other: room for the differences of all takes longer to get than they take to compute.
    for one, other in zip(a, b, strict=True):
        apart, set_ = np.count_nonzero(np.abs(one - other) > 0.5), np.count_nonzero(one > 0.5)
        if apart > max(2, 0.01 * set_):
            return False
    return True


def _only_batch(dynamic_axes: dict[str, dict[int, str]]) -> bool:
    return set(dynamic_axes) >= {"input", *OUTPUT_NAMES} and all(list(axes) == [0] for axes in dynamic_axes.values())


def _chosen(flavour: str, applied: Sequence[str] | None, masks: str) -> tuple[str, ...]:
    """The patches to export with, in order."""
    if masks not in ("full", "lean"):
        raise ExportError(f"there is no form of masks {masks!r}", "use full or lean")
    names = default_patches(flavour) if applied is None else tuple(applied)
    ends = () if masks == "full" else (LEAN, *FASTER) if flavour == "standard" else (LEAN,)
    return (*names, *(name for name in ends if name not in names))


def _check_lean(detector: BaseDetector) -> None:
    if not detector.with_mask:
        raise ExportError("a detector without a mask head has no lean masks", "export it with masks='full'")
    threshold = detector.roi_head.test_cfg.mask_thr_binary
    if threshold != paste.THRESHOLD:
        raise ExportError(
            f"mask_thr_binary is {threshold}, and lean masks are pasted at {paste.THRESHOLD}",
            "export with masks='full', which has the threshold in the graph",
        )


def _lean_size(detector: BaseDetector) -> tuple[int, int]:
    """Rows and columns that the (last) mask head computes for a RoI."""
    parts = (detector.roi_head.mask_roi_extractor, detector.roi_head.mask_head)
    extractor: Any
    head: Any
    extractor, head = (part[-1] if isinstance(part, torch.nn.ModuleList) else part for part in parts)
    factor = 1 if head.upsample is None else int(head.scale_factor)
    height, width = extractor.roi_layers[0].output_size
    return factor * height, factor * width


def _detections(model: onnx.ModelProto, wanted: int) -> int:
    """How many rows the traced graph gives: those wanted, or all there are (proposals times classes) if fewer."""
    traced = model.graph.output[0].type.tensor_type.shape.dim
    return int(traced[1].dim_value) if len(traced) == 3 and traced[1].dim_value else wanted


def _declare_shapes(model: onnx.ModelProto, batch: int | str, detections: int, mask_size: Sequence[int]) -> None:
    """Write the outputs' shapes; a name stands for a dynamic batch.

    ONNX's own shape inference does not see through custom operators.
    """
    shapes = ((batch, detections, 5), (batch, detections), (batch, detections, *mask_size))
    # A detector without a mask head has two outputs.
    for output, shape in zip(model.graph.output, shapes, strict=False):
        declared = onnx.helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, shape)
        output.CopyFrom(declared)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Every node gets a name of its own: TensorRT, netron and the tools of this course find nodes by it."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0].strip('/').replace('/', '.')}"
        number = 0
        while name in seen or (name in taken and name != node.name):
            number += 1
            name = f"{node.name or node.op_type}_{number}"
        seen.add(name)
        node.name = name


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "mmcv-full", "mmdet", "onnx", "onnxsim")}


def _settings_digest(detector: BaseDetector) -> str:
    """Of the config that the detector was built from, its modules, and its settings as they are in memory now."""
    live = [[row.key, [_told(value) for value in values_at(detector, row.at)]] for row in table()]
    config = getattr(detector, "cfg", None)
    text = json.dumps([str(getattr(config, "_cfg_dict", config)), str(detector), live])
    return hashlib.sha256(text.encode()).hexdigest()


def _told(value: Any) -> str:
    """A setting with all its digits."""
    return repr(value.tolist() if isinstance(value, torch.Tensor) else value)


def export_inputs(detector: BaseDetector, flavour: str, applied: Sequence[str], **options: Any) -> dict[str, Any]:
    """Everything that an exported file depends on, for :func:`helpers.artifacts.make`."""
    modules = [artifacts.module_sources(f"patches.{name}") for name in applied]
    text = json.dumps([[list(patches.load(name).sources()), of] for name, of in zip(applied, modules, strict=True)])
    return {
        "format": _FORMAT,
        "flavour": flavour,
        "opset": options.pop("opset", None) or _flavour(flavour).opset,
        "patches": list(applied),
        "patch_sources": hashlib.sha256(text.encode()).hexdigest(),
        "weights": weights_digest(detector),
        "settings": _settings_digest(detector),
        "versions": _versions(),
        "options": options,
    }


def make_onnx(
    model_name: str,
    flavour: str = "standard",
    *,
    label: str = "",
    applied: Sequence[str] | None = None,
    detector: BaseDetector | None = None,
    **options: Any,
) -> Path:
    """The exported file ``build/<model>/<flavour>[-label].onnx``, made if it is not there or no longer current.

    ``label`` tells apart files made with other patches or options. ``detector`` saves loading it when the caller has
    it. Simplification is checked on the demo pictures for the ``standard`` file without a label, with which all others
    are compared: the check takes longer than the export, with mmcv's RoIAlign in Python much longer. Other arguments
    are those of :func:`export_onnx`, which see for the errors.
    """
    _flavour(flavour, options.get("opset"))
    detector = detector or load_detector(model_name)
    names = _chosen(flavour, applied, options.get("masks", "full"))

    def build(temporary: Path) -> None:
        probes = None
        if not label and flavour == "standard":
            height, width = options.get("input_shape", INPUT_SHAPE)[2:]
            pictures = map(read_picture, sorted((DATA / "demo").glob("*.jpg")))
            probes = (prepare(picture, (height, width), preprocessing_of(detector)) for picture in pictures)
        export_onnx(detector, temporary, flavour, applied=names, probes=probes, **options)

    path = build_dir(model_name) / f"{flavour}{'-' if label else ''}{label}.onnx"
    return artifacts.make(
        path,
        export_inputs(detector, flavour, names, **options),
        build,
    )
