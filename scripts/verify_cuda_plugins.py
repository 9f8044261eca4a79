"""Build the CUDA kernels of the plugins on this machine, check them, and measure them: one table, one JSON.

    python scripts/verify_cuda_plugins.py --output evidence/cuda_plugins_<gpu>.json

Needs an NVIDIA GPU, nvcc, PyTorch with CUDA and torchvision; no TensorRT, no mmcv (torchvision's RoIAlign with
``aligned=True`` computes what mmcv's does). A section that fails is reported, and the next one runs.

What is compared: each kernel, in float32 and float16, on fresh random inputs at the model's real sizes (1000 RoIs on
four levels of 256 channels, 100 masks pasted into 800x1216), with PyTorch's or torchvision's operator in float64 on the
same (rounded) inputs. The float16 kernels may err at most twice as much as the framework's own float16 operator.

How time is measured: CUDA events around one launch, the L2 cache flushed before it, median. The memory floor of an
operator is the bytes that it must move (each input read once, each output written once) over the copy bandwidth
measured in the same run.

``--dry-run`` goes through the same code on a CPU, at small sizes: kernels are compiled if nvcc is there but not run,
the host library takes their place, and the times mean nothing. The record says so.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import secrets
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as functional

from helpers import evidence
from helpers.errors import CourseError
from helpers.operators import library as plugin_library

try:
    import torchvision
except Exception:  # a torchvision of another torch raises more than ImportError
    torchvision = None

Tensor = torch.Tensor
NAN = float("nan")
STRIDES = (4, 8, 16, 32)
FINEST_SCALE = 56.0
FRAMEWORK_FACTOR = 2.0  # the contract: at most twice the error of the framework's own half-precision operator
# Relative to float64, in the Euclidean norm; or twice the framework's own error, where coordinates of hundreds of
# pixels leave a float 1e-5 of a pixel and neither can do better.
FP32_TOLERANCE = 1e-5
TYPE_NAMES = {torch.float32: "FP32", torch.float16: "FP16"}


@dataclass(frozen=True)
class Sizes:
    """The problem sizes: the model's on a GPU, small ones in a dry run."""

    rois: int = 1000
    mask_rois: int = 100
    channels: int = 256
    height: int = 800
    width: int = 1216
    masks: int = 100
    repeats: int = 30
    flush_bytes: int = 2 << 30  # also long enough for the CPU to enqueue what is timed behind it
    copy_bytes: int = 4 << 30
    nms_boxes: int = 4741  # what the RPN keeps of its five levels at 800x1216: 4 x 1000 + 741
    class_boxes: int = 1000


DRY_SIZES = Sizes(12, 5, 3, 96, 128, 3, 2, 1 << 16, 1 << 20, 90, 40)


@dataclass
class Report:
    """Everything that goes into the record."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, passed: bool, **numbers: Any) -> None:
        self.checks.append({"check": name, "passed": bool(passed), **numbers})
        words = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
        )
        print(f"  {'ok    ' if passed else 'FAILED'} {name}: {words}", flush=True)

    def section(self, name: str, run: Callable[[], None]) -> None:
        """Run one section; a failure is kept and does not stop the others."""
        print(f"== {name}", flush=True)
        begin = time.perf_counter()
        result: dict[str, Any] = {"status": "ok"}
        try:
            run()
        except Skip as reason:
            result = {"status": "skipped", "reason": str(reason)}
            print(f"  skipped: {reason}", flush=True)
        except Exception as error:
            result = {
                "status": "failed",
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc()[-3000:],
            }
            print(f"  FAILED: {type(error).__name__}: {str(error)[:2000]}", flush=True)
        result["seconds"] = round(time.perf_counter() - begin, 2)
        self.sections[name] = result


class Skip(Exception):
    """A section that cannot run here, and why."""


class CudaError(CourseError):
    """A kernel returned an error code."""


# --- the operators under test -----------------------------------------------------------------------------------------


class Kernels:
    """The CUDA library, called with torch tensors on the current stream.

    poison: outputs are NaN everywhere before a kernel writes them, for checks; for benchmarks, whatever memory held.
    """

    def __init__(self, path: Path) -> None:
        self.library = plugin_library.load_library(path, "cuda")
        self.poison = True

    def _output(self, shape: Sequence[int], like: Tensor) -> Tensor:
        output = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
        return output.fill_(NAN) if self.poison else output

    @staticmethod
    def _code(tensor: Tensor) -> int:
        return plugin_library.TYPE_CODES[str(tensor.dtype).removeprefix("torch.")]

    def _run(self, operator: str, *arguments: Any) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        status = getattr(self.library, f"course_{operator}_cuda")(*arguments, stream)
        if status != 0:
            raise CudaError(f"{operator} returned CUDA error {status}", "look the number up in cudaError_t")

    def roi_align(self, features: Tensor, rois: Tensor, size: int, scale: float, **options: Any) -> Tensor:
        output = self._output((len(rois), features.shape[1], size, size), features)
        self._run(
            "roi_align", *_pointers(features, rois, output), self._code(features), self._code(rois), *features.shape,
            len(rois), size, size, scale, options.get("sampling_ratio", 0),
            {"max": 0, "avg": 1}[options.get("mode", "avg")], options.get("aligned", True),
        )  # fmt: skip
        return output

    def multi_level_roi_align(self, features: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
        batch, channels = features[0].shape[:2]
        output = self._output((len(rois), channels, size, size), features[0])
        maps = (ctypes.c_void_p * len(features))(*_pointers(*features))
        heights = (ctypes.c_int32 * len(features))(*(level.shape[2] for level in features))
        widths = (ctypes.c_int32 * len(features))(*(level.shape[3] for level in features))
        scales = (ctypes.c_double * len(features))(*(1 / stride for stride in STRIDES))
        self._run(
            "multi_level_roi_align", ctypes.addressof(maps), *_pointers(rois, output), self._code(features[0]),
            self._code(rois), len(features), batch, channels, ctypes.addressof(heights), ctypes.addressof(widths),
            ctypes.addressof(scales), FINEST_SCALE, len(rois), size, size, 0, 1, 1,
        )  # fmt: skip
        return output

    def grid_sampler(self, values: Tensor, grid: Tensor, interpolation: str, padding: str, align: bool) -> Tensor:
        output = self._output((*values.shape[:2], *grid.shape[1:3]), values)
        self._run(
            "grid_sampler", *_pointers(values, grid, output), self._code(values), self._code(grid), *values.shape,
            *grid.shape[1:3], plugin_library.INTERPOLATIONS[interpolation], plugin_library.PADDINGS[padding], align,
        )  # fmt: skip
        return output

    def non_max_suppression(self, boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float) -> Tensor:
        batch, count = boxes.shape[:2]
        classes = scores.shape[1]
        selected = torch.full((batch * classes * min(limit, count), 3), -9, dtype=torch.int32, device=boxes.device)
        workspace = torch.empty(
            self.library.course_non_max_suppression_workspace(batch, classes, count, limit), dtype=torch.uint8,
            device=boxes.device,
        )  # fmt: skip
        self._run(
            "non_max_suppression", *_pointers(boxes, scores, selected, workspace), self._code(boxes), batch, classes,
            count, limit, iou, threshold, 0, 0,
        )  # fmt: skip
        return selected

    def scatter_nd(self, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        output = torch.empty_like(data)
        dims = (ctypes.c_int64 * data.ndim)(*data.shape)
        self._run(
            "scatter_nd", *_pointers(data, indices, updates, output), self._code(data), self._code(indices),
            ctypes.addressof(dims), data.ndim, indices.shape[:-1].numel(), indices.shape[-1],
        )  # fmt: skip
        return output


class HostLoops:
    """The dry run's stand-in for :class:`Kernels`: the host library, results rounded to the type of the input."""

    @staticmethod
    def _as_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
        return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()

    def roi_align(self, features: Tensor, rois: Tensor, size: int, scale: float, **options: Any) -> Tensor:
        arrays = self._as_numpy(features), self._as_numpy(rois)
        return torch.from_numpy(plugin_library.roi_align(*arrays, (size, size), scale, **options)).to(features.dtype)

    def multi_level_roi_align(self, features: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
        maps = [self._as_numpy(level) for level in features]
        result = plugin_library.multi_level_roi_align(maps, self._as_numpy(rois), (size, size), STRIDES)
        return torch.from_numpy(result).to(features[0].dtype)

    def grid_sampler(self, values: Tensor, grid: Tensor, interpolation: str, padding: str, align: bool) -> Tensor:
        arrays = self._as_numpy(values), self._as_numpy(grid)
        options: dict[str, Any] = {"interpolation": interpolation, "padding": padding, "align_corners": align}
        return torch.from_numpy(plugin_library.grid_sampler(*arrays, **options)).to(values.dtype)

    def non_max_suppression(self, boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float) -> Tensor:
        rows = plugin_library.non_max_suppression(self._as_numpy(boxes), self._as_numpy(scores), limit, iou, threshold)
        padded = np.full((boxes.shape[0] * scores.shape[1] * min(limit, boxes.shape[1]), 3), -1, np.int32)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded)

    def scatter_nd(self, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        return torch.from_numpy(plugin_library.scatter_nd(data.numpy(), indices.numpy(), updates.numpy()))


def _pointers(*tensors: Tensor) -> list[int]:
    for tensor in tensors:
        assert tensor.is_contiguous(), "kernels take dense tensors"
    return [tensor.data_ptr() for tensor in tensors]


# --- inputs -----------------------------------------------------------------------------------------------------------


class Inputs:
    """Fresh random inputs on one device. The seed is part of the record."""

    def __init__(self, seed: int, device: str, sizes: Sizes) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device, self.sizes = device, sizes

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def pyramid(self, dtype: torch.dtype) -> list[Tensor]:
        """Four levels of features, as large as the network's for one picture."""
        s = self.sizes
        return [
            torch.randn(1, s.channels, -(-s.height // stride), -(-s.width // stride), generator=self.generator).to(
                self.device, dtype
            )
            for stride in STRIDES
        ]

    def rois(self, count: int, dtype: torch.dtype, smallest: float = 16.0, largest: float = 800.0) -> Tensor:
        """RoIs (batch index 0) whose square-rooted area is log-uniform between the bounds, clipped to the picture."""
        s = self.sizes
        side = smallest * (largest / smallest) ** self.uniform(count)
        ratio = 2.0 ** self.uniform(count, low=-1, high=1)
        half = torch.stack([side * ratio.sqrt(), side / ratio.sqrt()], 1) / 2
        centre = self.uniform(count, 2) * torch.tensor([s.width, s.height])
        limit = torch.tensor([s.width, s.height, s.width, s.height], dtype=torch.float32)
        boxes = torch.cat([centre - half, centre + half], 1).clamp(min=0).minimum(limit)
        return torch.cat([torch.zeros(count, 1), boxes], 1).to(self.device, dtype)

    def mask_grid(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mask probabilities (n, 1, 28, 28) and the grid that pastes each into the picture at its own box."""
        s = self.sizes
        boxes = self.rois(s.masks, torch.float32, 32.0, 500.0)[:, 1:]
        x = (torch.arange(s.width, device=self.device) + 0.5)[None]
        y = (torch.arange(s.height, device=self.device) + 0.5)[None]
        grid_x = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]).clamp(min=1) * 2 - 1
        grid_y = (y - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]).clamp(min=1) * 2 - 1
        shape = (s.masks, s.height, s.width)
        grid = torch.stack([grid_x[:, None].expand(shape), grid_y[:, :, None].expand(shape)], 3)
        return self.uniform(s.masks, 1, 28, 28).to(self.device, dtype), grid.to(dtype).contiguous()

    def boxes(self, batch: int, count: int) -> Tensor:
        corner = self.uniform(batch, count, 2, high=200.0)
        return torch.cat([corner, corner + self.uniform(batch, count, 2, low=5.0, high=80.0)], 2).to(self.device)


# --- references -------------------------------------------------------------------------------------------------------


def reference_roi_align(features: Tensor, rois: Tensor, size: int, scale: float, **options: Any) -> Tensor:
    """float64: torchvision's operator; where it is missing or has no such mode, the host library."""
    mode, ratio, aligned = options.get("mode", "avg"), options.get("sampling_ratio", 0), options.get("aligned", True)
    if torchvision is not None and mode == "avg" and features.is_cuda:
        return torchvision.ops.roi_align(features.double(), rois.double(), size, scale, ratio, aligned)
    arrays = features.double().cpu().numpy(), rois.double().cpu().numpy()
    result = plugin_library.roi_align(*arrays, (size, size), scale, sampling_ratio=ratio, mode=mode, aligned=aligned)
    return torch.from_numpy(result).to(features.device)


def roi_levels(rois: Tensor) -> Tensor:
    """mmdet's SingleRoIExtractor.map_roi_levels."""
    scale = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    return (scale / FINEST_SCALE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1).long()


def levels_by(align: Callable[..., Tensor], features: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
    """What mmdet runs in PyTorch: the RoIs of each level picked out, aligned, and put back."""
    output = torch.zeros(len(rois), features[0].shape[1], size, size, dtype=features[0].dtype, device=rois.device)
    levels = roi_levels(rois.float())
    for level, stride in enumerate(STRIDES):
        chosen = (levels == level).nonzero().squeeze(1)
        output[chosen] = align(features[level], rois[chosen].contiguous(), size, 1 / stride).to(output.dtype)
    return output


def masked_levels(align: Callable[..., Tensor], features: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
    """What mmdet exports: every RoI on every level, three of four zeroed before and multiplied by zero after."""
    levels = roi_levels(rois.float())  # in half precision the area of a large RoI is infinite
    output = torch.zeros(len(rois), features[0].shape[1], size, size, dtype=features[0].dtype, device=rois.device)
    for level, stride in enumerate(STRIDES):
        mask = (levels == level).to(rois.dtype)
        part = align(features[level], rois * mask[:, None], size, 1 / stride)
        output = output + part * mask[:, None, None, None]
    return output


def torchvision_align(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    return torchvision.ops.roi_align(features, rois, size, scale, 0, True)


def errors(result: Tensor, reference: Tensor) -> dict[str, float]:
    """Relative error in the Euclidean norm and the largest absolute one; NaN anywhere makes both NaN."""
    difference = result.double() - reference.double()
    return {
        "relative": float(difference.norm() / reference.double().norm().clamp(min=1e-300)),
        "largest": float(difference.abs().max()) if difference.numel() else 0.0,
    }


def compare(report: Report, name: str, result: Tensor, reference: Tensor, framework: Tensor | None) -> None:
    """One row of the accuracy table: FP32 against a fixed bound, FP16 against the framework's own FP16 operator."""
    ours = errors(result, reference)
    numbers: dict[str, Any] = {"error": ours["relative"], "largest": ours["largest"]}
    if framework is not None:
        theirs = errors(framework, reference)
        numbers |= {"framework error": theirs["relative"], "framework largest": theirs["largest"]}
    # Without a framework's operator to compare with, half precision gets half a step, in the norm.
    bound = 2.0**-11 if result.dtype == torch.float16 else FP32_TOLERANCE
    if framework is not None:
        doubled = FRAMEWORK_FACTOR * theirs["relative"]
        bound = doubled if result.dtype == torch.float16 else max(bound, doubled)
    passed = ours["relative"] <= bound
    report.check(f"{name} {TYPE_NAMES[result.dtype]}", passed, **numbers)


# --- sections ---------------------------------------------------------------------------------------------------------


class Verification:
    def __init__(self, report: Report, device: str, sizes: Sizes, seed: int, architecture: str) -> None:
        self.report, self.device, self.sizes, self.architecture = report, device, sizes, architecture
        self.inputs = Inputs(seed, device, sizes)
        self.operators: Any = None
        self.on_gpu = device == "cuda"
        self.flush = torch.zeros(sizes.flush_bytes // 4, device=device)
        self.bandwidth = NAN

    def _ready(self) -> None:
        if self.operators is None:
            raise Skip("the kernels were not built")

    def build(self) -> None:
        begin = time.perf_counter()
        try:
            library = plugin_library.build_cuda_library(self.architecture)
        except plugin_library.PluginBuildError as error:
            if self.on_gpu or plugin_library.find_nvcc() is not None:
                raise
            self.report.facts["nvcc"] = "not found"
            print(f"  {error}")
        else:
            self.report.facts["kernels"] = f"compiled for {self.architecture} in {time.perf_counter() - begin:.1f} s"
            if self.on_gpu:
                self.operators = Kernels(library)
        if not self.on_gpu:
            self.operators = HostLoops()

    def check_roi_align(self) -> None:
        self._ready()
        s = self.sizes
        for dtype in (torch.float32, torch.float16):
            features = self.inputs.pyramid(dtype)
            for level, stride in enumerate(STRIDES):
                rois = self.inputs.rois(s.rois, dtype, 16.0 * 2**level, 112.0 * 2**level)
                result = self.operators.roi_align(features[level], rois, 7, 1 / stride)
                reference = reference_roi_align(features[level], rois, 7, 1 / stride)
                framework = torchvision_align(features[level], rois, 7, 1 / stride) if self._has_torchvision else None
                compare(self.report, f"RoIAlign 7x7 level {level}", result, reference, framework)
            rois = self.inputs.rois(s.mask_rois, dtype)
            for options in (
                {"sampling_ratio": 2, "aligned": True},
                {"sampling_ratio": 0, "aligned": False},
                {"sampling_ratio": 3, "aligned": False},
            ):
                result = self.operators.roi_align(features[2], rois, 14, 1 / 16, **options)
                reference = reference_roi_align(features[2], rois, 14, 1 / 16, **options)
                framework = None
                if self._has_torchvision:
                    arguments = (options["sampling_ratio"], options["aligned"])
                    framework = torchvision.ops.roi_align(features[2], rois, 14, 1 / 16, *arguments)
                compare(self.report, f"RoIAlign 14x14 {options}", result, reference, framework)
            # The maximum has no counterpart in torchvision: the host library, in double, on a part.
            part = features[3][:, :8].contiguous()
            result = self.operators.roi_align(part, rois, 7, 1 / 32, mode="max")
            compare(self.report, "RoIAlign max", result, reference_roi_align(part, rois, 7, 1 / 32, mode="max"), None)

    @property
    def _has_torchvision(self) -> bool:
        return torchvision is not None and self.on_gpu

    def check_multi_level(self) -> None:
        self._ready()
        s = self.sizes
        for dtype in (torch.float32, torch.float16):
            features = self.inputs.pyramid(dtype)
            for name, count, size in (("box head", s.rois, 7), ("mask head", s.mask_rois, 14)):
                rois = self.inputs.rois(count, dtype)
                double = [level.double() for level in features]
                reference = levels_by(reference_roi_align, double, rois.double(), size)
                framework = levels_by(torchvision_align, features, rois, size) if self._has_torchvision else None
                result = self.operators.multi_level_roi_align(features, rois, size)
                compare(self.report, f"MultiLevelRoIAlign {name}", result, reference, framework)
            mixed = self.inputs.rois(s.mask_rois, torch.float32)
            if dtype == torch.float16:
                reference = levels_by(reference_roi_align, [f.double() for f in features], mixed.double(), 14)
                result = self.operators.multi_level_roi_align(features, mixed, 14)
                compare(self.report, "MultiLevelRoIAlign float RoIs on half features", result, reference, None)

    def check_grid_sampler(self) -> None:
        self._ready()
        for dtype in (torch.float32, torch.float16):
            for align in (False, True):
                masks, grid = self.inputs.mask_grid(dtype)
                reference = functional.grid_sample(masks.double(), grid.double(), align_corners=align)
                framework = functional.grid_sample(masks, grid, align_corners=align)
                result = self.operators.grid_sampler(masks, grid, "bilinear", "zeros", align)
                compare(self.report, f"grid_sampler masks, align_corners {align}", result, reference, framework)
                if dtype == torch.float16:
                    _, float_grid = self.inputs.mask_grid(torch.float32)
                    reference = functional.grid_sample(masks.double(), float_grid.double(), align_corners=align)
                    result = self.operators.grid_sampler(masks, float_grid, "bilinear", "zeros", align)
                    compare(
                        self.report,
                        f"grid_sampler float grid on half masks, align_corners {align}",
                        result,
                        reference,
                        None,
                    )
                del reference, framework, result, grid
            values = self.inputs.uniform(2, 5, 33, 47, low=-1).to(self.device, dtype)
            points = self.inputs.uniform(2, 41, 39, 2, low=-1.6, high=1.6).to(self.device, dtype)
            for interpolation in plugin_library.INTERPOLATIONS:
                for padding in plugin_library.PADDINGS:
                    for align in (False, True):
                        options: dict[str, Any] = {
                            "mode": interpolation,
                            "padding_mode": padding,
                            "align_corners": align,
                        }
                        result = self.operators.grid_sampler(values, points, interpolation, padding, align)
                        name = f"grid_sampler {interpolation} {padding} align_corners {align}"
                        reference = functional.grid_sample(values.double(), points.double(), **options)
                        if interpolation == "nearest":
                            # A point half-way between two pixels goes to either, as rounding has it.
                            wrong = float((result.double() - reference).abs().gt(1e-3).double().mean())
                            self.report.check(f"{name} {TYPE_NAMES[dtype]}", wrong <= 1e-3, different=wrong)
                        else:
                            compare(
                                self.report, name, result, reference, functional.grid_sample(values, points, **options)
                            )

    def check_non_max_suppression(self) -> None:
        self._ready()
        s = self.sizes
        for name, batch, classes, count in (
            ("RPN", 1, 1, s.nms_boxes),
            ("80 classes, 2 pictures", 2, 80, s.class_boxes),
        ):
            boxes = self.inputs.boxes(batch, count)
            # Scores on a coarse scale: many are equal, and the order of equals counts.
            scores = (self.inputs.uniform(batch, classes, count) * 500).floor().div(500).to(self.device)
            result = self.operators.non_max_suppression(boxes, scores, 1000, 0.5, 0.05).cpu()
            arrays = boxes.cpu().numpy(), scores.cpu().numpy()
            wanted = torch.from_numpy(plugin_library.non_max_suppression(*arrays, 1000, 0.5, 0.05))
            kept = int((result[:, 0] >= 0).sum())
            same = (
                kept == len(wanted) and torch.equal(result[:kept].long(), wanted) and bool((result[kept:] == -1).all())
            )
            self.report.check(f"NonMaxSuppression {name}", same, kept=kept, expected=len(wanted))

    def check_scatter_nd(self) -> None:
        self._ready()
        for dtype in (torch.float32, torch.float16, torch.int32):
            data = (self.inputs.uniform(80, 1000, 4) * 100).to(self.device, dtype)
            rows = torch.randperm(80_000, generator=self.inputs.generator)[:5000]
            indices = torch.stack([rows // 1000, rows % 1000 - 1000], 1).to(self.device)
            updates = (self.inputs.uniform(5000, 4) * 100).to(self.device, dtype)
            expected = data.clone()
            expected[indices[:, 0], indices[:, 1]] = updates
            for index_type in (torch.int64, torch.int32):
                result = self.operators.scatter_nd(data, indices.to(index_type), updates)
                self.report.check(f"ScatterND {dtype} {index_type}", torch.equal(result, expected))

    def check_edge_cases(self) -> None:
        """Adversarial inputs in buffers of exact size: first plainly, then under compute-sanitizer."""
        if plugin_library.find_nvcc() is None:
            raise Skip("no nvcc")
        program = plugin_library.build_cuda_edge_cases(self.architecture)
        if not self.on_gpu:
            raise Skip("compiled; running it needs a GPU")
        done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
        self.report.check("edge cases", done.returncode == 0, output=done.stdout.strip()[-1500:])
        sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if sanitizer is None:
            raise Skip("edge cases ran; no compute-sanitizer")
        for tool, seconds in (("memcheck", 60), ("racecheck", 30), ("initcheck", 30)):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "99", str(program)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            except subprocess.TimeoutExpired:
                # memcheck is the promise; the other two are a bonus that the run's time limit may cut.
                self.report.check(f"compute-sanitizer {tool}", tool != "memcheck", output=f"stopped after {seconds} s")
                continue
            self.report.check(
                f"compute-sanitizer {tool}", done.returncode == 0, output=(done.stdout + done.stderr).strip()[-1500:]
            )

    # --- time ---

    def median_ms(self, run: Callable[[], Any]) -> tuple[float, float]:
        """Median and spread (quartile distance) of one call, in milliseconds, with a cold L2 cache."""
        times = []
        for repeat in range(self.sizes.repeats + 3):
            # Read, not written: dirty lines would be written back inside the timed call.
            self.flush.sum()
            if self.on_gpu:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                run()
                end.record()
                end.synchronize()
                milliseconds = begin.elapsed_time(end)
            else:
                begin_s = time.perf_counter()
                run()
                milliseconds = (time.perf_counter() - begin_s) * 1e3
            if repeat >= 3:
                times.append(milliseconds)
        quartiles = statistics.quantiles(times, n=4)
        return statistics.median(times), quartiles[2] - quartiles[0]

    def measure_bandwidth(self) -> None:
        source = torch.rand(self.sizes.copy_bytes // 4, device=self.device)
        target = torch.empty_like(source)
        milliseconds, spread = self.median_ms(lambda: target.copy_(source))
        self.bandwidth = 2 * source.numel() * 4 / (milliseconds * 1e-3)
        self.report.facts["copy bandwidth GB/s (read + written)"] = round(self.bandwidth / 1e9, 1)
        print(f"  {self.bandwidth / 1e9:.0f} GB/s (spread {spread:.3f} of {milliseconds:.3f} ms)")

    def bench(self, name: str, ours: Callable[[], Any], framework: Callable[[], Any] | None, moved: int | None, *,
              against: str, at_least_floor: float | None = None, target: bool = True) -> None:  # fmt: skip
        """One row: our time, the framework's, the memory floor's; and whether the targets are met."""
        try:
            row: dict[str, Any] = {"operator": name, "against": against}
            row["ms"], row["spread ms"] = self.median_ms(ours)
            if framework is not None:
                row["framework ms"], row["framework spread ms"] = self.median_ms(framework)
                row["speed-up"] = row["framework ms"] / row["ms"]
            if moved is not None and not math.isnan(self.bandwidth):
                row["floor ms"] = moved / self.bandwidth * 1e3
                row["bytes"] = moved
                row["of floor"] = row["floor ms"] / row["ms"]
        except Exception as error:  # one row must not cost the others
            print(f"  FAILED {name}: {error}")
            self.report.benchmarks.append({"operator": name, "error": f"{type(error).__name__}: {error}"})
            return
        self.report.benchmarks.append(row)
        print("  " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
        if not self.on_gpu:
            return
        if target and "speed-up" in row:
            self.report.targets.append({"target": f"{name}: as fast as {against}", "met": row["speed-up"] >= 1.0})
        if at_least_floor is not None and "of floor" in row:
            self.report.targets.append(
                {
                    "target": f"{name}: {at_least_floor:.0%} of the memory floor",
                    "met": row["of floor"] >= at_least_floor,
                }
            )

    def benchmark_roi_align(self) -> None:
        self._ready()
        s, align = self.sizes, self.operators.roi_align
        for dtype in (torch.float32, torch.float16):
            features = self.inputs.pyramid(dtype)
            for level, stride in enumerate(STRIDES):
                rois = self.inputs.rois(s.rois, dtype, 16.0 * 2**level, 112.0 * 2**level)
                self._bench_align(f"RoIAlign 7x7 {s.rois} RoIs level {level}", features[level], rois, 7, stride)
            rois = self.inputs.rois(s.mask_rois, dtype, 56, 112)
            self._bench_align(f"RoIAlign 14x14 {s.mask_rois} RoIs level 0", features[0], rois, 14, 4)
            for head, count, size in (("box head", s.rois, 7), ("mask head", s.mask_rois, 14)):
                self._bench_levels(f"{head} {count} RoIs", features, self.inputs.rois(count, dtype), size, align)

    def _bench_align(self, name: str, features: Tensor, rois: Tensor, size: int, stride: int) -> None:
        moved = (
            features.numel() + rois.numel() + len(rois) * features.shape[1] * size * size
        ) * features.element_size()
        self.bench(
            f"{name} {TYPE_NAMES[features.dtype]}",
            lambda: self.operators.roi_align(features, rois, size, 1 / stride),
            (lambda: torchvision_align(features, rois, size, 1 / stride)) if self._has_torchvision else None,
            moved,
            against="torchvision.ops.roi_align",
        )

    def _bench_levels(
        self, name: str, features: list[Tensor], rois: Tensor, size: int, align: Callable[..., Tensor]
    ) -> None:
        kind = TYPE_NAMES[rois.dtype]
        numbers = (
            sum(level.numel() for level in features) + rois.numel() + len(rois) * features[0].shape[1] * size * size
        )
        operators = self.operators

        def ours() -> Any:
            return operators.multi_level_roi_align(features, rois, size)

        self.bench(
            f"MultiLevelRoIAlign {name} {kind}",
            ours,
            lambda: masked_levels(align, features, rois, size),
            numbers * rois.element_size(),
            against="four masked MMCVRoiAlign plugins (the exported graph)",
        )
        levels = roi_levels(rois.float())
        masked = [(rois * (levels == level)[:, None]).contiguous() for level in range(len(STRIDES))]
        self.bench(
            f"MultiLevelRoIAlign {name} {kind}",
            ours,
            lambda: [align(f, r, size, 1 / stride) for f, r, stride in zip(features, masked, STRIDES, strict=True)],
            None,
            against="the same four plugins without the masking around them",
        )
        if self._has_torchvision:
            self.bench(
                f"MultiLevelRoIAlign {name} {kind}",
                ours,
                lambda: masked_levels(torchvision_align, features, rois, size),
                None,
                against="four masked torchvision RoIAligns",
            )
            self.bench(
                f"MultiLevelRoIAlign {name} {kind}",
                ours,
                lambda: levels_by(torchvision_align, features, rois, size),
                None,
                against="mmdet's PyTorch way (RoIs picked by level) with torchvision",
            )

    def benchmark_grid_sampler(self) -> None:
        self._ready()
        cases = [(torch.float32, torch.float32), (torch.float16, torch.float16), (torch.float16, torch.float32)]
        for mask_type, grid_type in cases:
            masks, _ = self.inputs.mask_grid(mask_type)
            _, grid = self.inputs.mask_grid(grid_type)
            output_bytes = grid.numel() // 2 * masks.element_size()
            moved = grid.numel() * grid.element_size() + masks.numel() * masks.element_size() + output_bytes
            same = mask_type == grid_type
            name = f"grid_sampler {len(masks)} masks to {grid.shape[1]}x{grid.shape[2]}"
            # PyTorch's operator takes one type only; beside a float grid it would need float masks.
            theirs = masks if same else masks.float()
            self.bench(
                f"{name} {TYPE_NAMES[mask_type]}" + ("" if same else " with FP32 grid"),
                partial(self.operators.grid_sampler, masks, grid, "bilinear", "zeros", False),
                partial(functional.grid_sample, theirs, grid, align_corners=False),
                moved,
                against="torch grid_sample" + ("" if same else " in FP32"),
                at_least_floor=0.6,
            )

    def benchmark_non_max_suppression(self) -> None:
        self._ready()
        s = self.sizes
        for name, classes, count in (("RPN", 1, s.nms_boxes), ("80 classes", 80, s.class_boxes)):
            boxes, scores = self.inputs.boxes(1, count), self.inputs.uniform(1, classes, count).to(self.device)
            framework = None
            if self._has_torchvision and classes == 1:
                framework = partial(torchvision.ops.nms, boxes[0], scores[0, 0], 0.7)
            self.bench(
                f"NonMaxSuppression {name}, {count} boxes FP32",
                partial(self.operators.non_max_suppression, boxes, scores, 1000, 0.7, 0.0),
                framework,
                None,
                against="torchvision.ops.nms (keeps all, one host synchronisation)",
                target=False,
            )


# --- the record -------------------------------------------------------------------------------------------------------


def _words(command: Sequence[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        return None


def machine(device: str) -> dict[str, Any]:
    nvcc = plugin_library.find_nvcc()
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "torchvision": getattr(torchvision, "__version__", None),
        "nvcc": (_words([nvcc, "--version"]) or "").splitlines()[-1:] if nvcc else None,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "L2 bytes": properties.L2_cache_size,
            "driver": _words(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
            "cuda of torch": torch.version.cuda,
        }
    return facts


def table(report: Report) -> str:
    """The summary that ends the output."""
    lines = ["", f"{'operator':<58}{'ours ms':>9}{'theirs':>9}{'speed-up':>9}{'floor':>8}{'of floor':>9}  against"]
    for row in report.benchmarks:
        if "error" in row:
            lines.append(f"{row['operator']:<58} FAILED: {row['error'][:80]}")
            continue
        cells = [row["ms"], row.get("framework ms"), row.get("speed-up"), row.get("floor ms"), row.get("of floor")]
        shown = ["" if cell is None else f"{cell:.3f}" if i != 4 else f"{cell:.0%}" for i, cell in enumerate(cells)]
        shown = [text.rjust(width) for text, width in zip(shown, (9, 9, 9, 8, 9), strict=True)]
        lines.append(f"{row['operator']:<58}{''.join(shown)}  {row['against']}")
    lines.append("")
    lines += [f"{'met   ' if target['met'] else 'MISSED'}  {target['target']}" for target in report.targets]
    failed = [check for check in report.checks if not check["passed"]]
    lines.append("")
    lines += [f"FAILED  {check['check']}: {json.dumps(check)[:400]}" for check in failed]
    for name, section in report.sections.items():
        detail = section.get("error") or section.get("reason") or ""
        lines.append(f"{section['status']:<8}{section['seconds']:>7.1f} s  {name}  {detail[:300]}")
    lines.append(f"{len(report.checks) - len(failed)} of {len(report.checks)} checks passed")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="the JSON record to write")
    parser.add_argument("--commit", help="the commit, for a copy without a repository")
    parser.add_argument("--seed", type=int, default=None, help="of the random inputs (default: a fresh one, recorded)")
    parser.add_argument("--architecture", default=None, help="such as sm_90 (default: this GPU's)")
    parser.add_argument(
        "--dry-run", action="store_true", help="the same code on a CPU, at small sizes; times mean nothing"
    )
    options = parser.parse_args(arguments)

    if not options.dry_run and not torch.cuda.is_available():
        print(
            "no GPU that PyTorch can use was found: run this on a machine with one, or pass --dry-run.", file=sys.stderr
        )
        return 2
    device = "cpu" if options.dry_run else "cuda"
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    if options.architecture:
        architecture = options.architecture
    elif device == "cuda":
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    else:
        architecture = "sm_90"

    begin = time.perf_counter()
    report = Report()
    verification = Verification(report, device, DRY_SIZES if options.dry_run else Sizes(), seed, architecture)
    report.section("build", verification.build)
    for name in ("roi_align", "multi_level", "grid_sampler", "non_max_suppression", "scatter_nd", "edge_cases"):
        report.section(f"check {name}", getattr(verification, f"check_{name}"))
    if isinstance(verification.operators, Kernels):
        verification.operators.poison = False
    report.section("copy bandwidth", verification.measure_bandwidth)
    for name in ("roi_align", "grid_sampler", "non_max_suppression"):
        report.section(f"benchmark {name}", getattr(verification, f"benchmark_{name}"))

    record = {
        **evidence.head(
            "CUDA kernels of the plugins against PyTorch and torchvision", machine(device), of=options.commit
        ),
        "dry run": options.dry_run,
        "note": "a dry run on a CPU: the host library stood in for the kernels, times mean nothing" if options.dry_run
        else "CUDA events, L2 flushed before each launch, median",
        "seed": seed,
        "sizes": asdict(verification.sizes),
        "seconds": round(time.perf_counter() - begin, 1),
        **asdict(report),
    }  # fmt: skip
    evidence.save(options.output, record)
    print(table(report))
    print(f"record: {options.output} ({record['seconds']} s)")
    failed = any(not check["passed"] for check in report.checks)
    failed |= any(section["status"] == "failed" for section in report.sections.values())
    failed |= any("error" in row for row in report.benchmarks)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
