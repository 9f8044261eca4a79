"""The course's operators as compiled libraries: built where a compiler is found, called with numpy arrays.

The host library holds the arithmetic of every plugin as plain C++ loops over the same headers that the CUDA kernels
include. It is what the tests compare with mmcv, PyTorch and ONNX Runtime, and what ONNX Runtime can call for the
operators it does not know. The CUDA library holds the kernels; its functions take device pointers, so this module only
builds and declares it.

Arrays are dense and row-major, float32 or float64 (the second computes in double: a reference).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from operator import index
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from helpers import paths
from helpers.artifacts import file_input, make
from helpers.errors import CourseError

__all__ = [
    "BadOperatorInput",
    "PluginBuildError",
    "build",
    "build_cuda_edge_cases",
    "build_cuda_library",
    "build_host_library",
    "build_tensorrt_library",
    "find_cxx",
    "find_nvcc",
    "find_tensorrt_headers",
    "grid_sampler",
    "load_library",
    "multi_level_roi_align",
    "non_max_suppression",
    "register_plugins",
    "roi_align",
    "scatter_nd",
    "tensorrt_toolchain",
]

Array = npt.NDArray[Any]
Mode = Literal["avg", "max"]

INTERPOLATIONS = {"bilinear": 0, "nearest": 1, "bicubic": 2}
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
# kCourseMaxLevels, kMaxBins (of one RoI) and kMaxGrid (samples an axis a bin) in plugins/roi_align/roi_align_options.h.
MAX_LEVELS, MAX_BINS, MAX_GRID = 8, 1 << 24, 4096

# CourseType in plugins/common/host_device.h.
TYPE_CODES = {"float32": 0, "float16": 1, "int32": 2, "int64": 3, "float64": 4}
_BAD_ARGUMENT, _INDEX_OUT_OF_RANGE = 1, 2


class PluginBuildError(CourseError):
    """No compiler was found, a compiler failed, or a compiled library cannot be loaded."""


class BadOperatorInput(CourseError):
    """An operator was called with shapes, types or options that it does not take; names the operator."""


# --- building ---------------------------------------------------------------------------------------------------------


def find_cxx() -> str | None:
    """The C++ compiler: ``$CXX``, else the first of c++, g++, clang++ on the path; None if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def find_nvcc() -> str | None:
    """The CUDA compiler: ``$CUDACXX``, the path, ``$CUDA_HOME/bin``, ``/usr/local/cuda/bin``; None if there is none."""
    folders = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for name in (os.environ.get("CUDACXX"), "nvcc", *(f"{folder}/bin/nvcc" for folder in folders if folder)):
        if name and (found := shutil.which(name)):
            return found
    return None


# What a build depends on.
_SOURCES = {".h", ".cuh", ".cpp", ".cu", ".txt"}


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _tool(name: str) -> str:
    """cmake or ninja: of this Python's environment, which need not be activated, else on the path."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise PluginBuildError(f"{name} was not found", f"install it: `pip install {name}`")
    return found


def _run(command: Sequence[str | Path]) -> None:
    """Run CMake or ninja; a progress bar follows ninja's count of steps."""
    words: list[str] = []
    environment = os.environ | {"NINJA_STATUS": "[%f/%t] "}
    parts = [str(part) for part in command]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            parts, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as process,
        tqdm(desc="compiling", unit="step", leave=False) as progress,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                words.append(line)
                if step := re.match(r"\[(\d+)/(\d+)\] ", line):
                    progress.total = int(step[2])
                    progress.update(int(step[1]) - progress.n)
        except BaseException:
            process.terminate()  # ninja ends its compilers
            raise
    if process.returncode != 0:
        raise PluginBuildError(
            f"{Path(parts[0]).name} failed with exit code {process.returncode} and said\n"
            f"{''.join(words).strip()[-4000:]}\n",
            "mend the source it names, or name another compiler with CXX (CUDACXX for CUDA)",
        )


def build(target: str, *, file_name: str | None = None, **definitions: str | Path) -> Path:
    """Build one target of ``plugins/CMakeLists.txt`` into ``build/plugins/`` unless it is there and current.

    ``definitions`` are CMake's cache entries (``COURSE_SANITIZE="ON"``). ``$CXX`` and ``$CXXFLAGS`` count, as in CMake
    itself. The kernels are left out unless the definitions name a CUDA compiler. Returns the path of what was built: a
    library under ``file_name``, a program under its target's name.

    Raises:
        PluginBuildError: there is no C++ compiler, CMake or ninja, or one of them failed.
    """
    compiler = find_cxx()
    if compiler is None:
        raise PluginBuildError(
            "no C++ compiler was found",
            "install one (`apt install g++`, or `conda install gxx_linux-64`), or name it with the variable CXX",
        )
    cuda = definitions.get("CMAKE_CUDA_COMPILER")
    sources = {
        path.relative_to(paths.PLUGINS).as_posix(): path for path in paths.PLUGINS.rglob("*") if path.suffix in _SOURCES
    }
    if headers := definitions.get("TensorRT_INCLUDE_DIR"):
        sources["TensorRT"] = Path(headers) / "NvInferVersion.h"
    inputs = {
        "compilers": [_version(str(one)) for one in (compiler, cuda) if one],
        "flags": os.environ.get("CXXFLAGS", ""),
        "definitions": {name: str(value) for name, value in definitions.items()},
        "sources": {name: file_input(path) for name, path in sources.items()},
    }

    def make_target(made: Path) -> None:
        cmake, ninja = _tool("cmake"), _tool("ninja")
        entries = {"CMAKE_CXX_COMPILER": compiler, "CMAKE_MAKE_PROGRAM": ninja, "COURSE_CUDA": "ON" if cuda else "OFF"}
        with TemporaryDirectory() as folder:
            options = [f"-D{name}={value}" for name, value in {**entries, **definitions}.items()]
            _run([cmake, "-G", "Ninja", "-S", paths.PLUGINS, "-B", folder, *options])
            _run([ninja, "-C", folder, target])
            # A library has a prefix and a suffix, a program has none.
            built = next(path for path in Path(folder).iterdir() if path.stem in (target, f"lib{target}"))
            shutil.copy(built, made)

    path = make(paths.build_root() / "plugins" / (file_name or target), inputs, make_target)
    if file_name is None:
        path.chmod(path.stat().st_mode | 0o100)  # an artifact is a plain file, and a program is to be run
    return path


def _with_kernels(architecture: str) -> dict[str, str]:
    """The definitions for one architecture (``"sm_90"``), warnings being errors."""
    return {
        "CMAKE_CUDA_COMPILER": _nvcc(),
        "CMAKE_CUDA_ARCHITECTURES": architecture.removeprefix("sm_"),
        "CMAKE_COMPILE_WARNING_AS_ERROR": "ON",
    }


def _nvcc() -> str:
    compiler = find_nvcc()
    if compiler is None:
        raise PluginBuildError("no CUDA compiler (nvcc) was found", "install the CUDA toolkit, or name it with CUDACXX")
    return compiler


def build_host_library() -> Path:
    """The host library, compiled if it is not there and current; needs a C++ compiler.

    Raises:
        PluginBuildError: see :func:`build`.
    """
    return build("course_plugins_host", file_name="libcourse_plugins_host.so")


def build_cuda_library(architecture: str) -> Path:
    """The CUDA kernels for one architecture (``"sm_90"``), warnings being errors. Needs nvcc, no GPU.

    Raises:
        PluginBuildError: there is no nvcc, or see :func:`build`.
    """
    return build("course_plugins_cuda", file_name="libcourse_plugins_cuda.so", **_with_kernels(architecture))


def build_cuda_edge_cases(architecture: str) -> Path:
    """The program of ``plugins/tests/edge_cases.cpp`` that runs the kernels; the rest as :func:`build_cuda_library`."""
    return build("edge_cases_cuda", **_with_kernels(architecture))


def find_tensorrt_headers(root: Path | str | None = None) -> Path | None:
    """The folder that holds ``NvInferRuntime.h``: under ``root``, by default ``$TENSORRT_ROOT``, else /usr/include."""
    chosen = root or os.environ.get("TENSORRT_ROOT")
    if chosen:
        candidates = [Path(chosen) / "include", Path(chosen)]
    else:
        candidates = [
            Path("/usr/include/x86_64-linux-gnu"),
            Path("/usr/include/aarch64-linux-gnu"),
            Path("/usr/include"),
        ]
    return next((folder for folder in candidates if (folder / "NvInferRuntime.h").is_file()), None)


def tensorrt_toolchain(root: Path | str | None = None) -> tuple[str, Path]:
    """What the TensorRT plugin library is compiled with: nvcc, and the folder of TensorRT's headers.

    Raises:
        PluginBuildError: one of them is missing.
    """
    compiler = _nvcc()
    headers = find_tensorrt_headers(root)
    if headers is None:
        raise PluginBuildError(
            "TensorRT's headers (NvInferRuntime.h) were not found; its Python wheels have none",
            "name with TENSORRT_ROOT the unpacked tar archive of your version, or a clone of "
            "github.com/NVIDIA/TensorRT at your version's tag",
        )
    return compiler, headers


def build_tensorrt_library(architecture: str, *, tensorrt_root: Path | str | None = None) -> Path:
    """Compile kernels and plugin classes into the one library that TensorRT loads; returns its path.

    ``architecture`` is the GPU's: sm_86 for compute capability 8.6. Needs :func:`tensorrt_toolchain`. It is not linked
    with libnvinfer: the process that loads it must have TensorRT loaded already, its symbols visible to all
    (:func:`helpers.tensorrt.runtime.load_plugins` sees to that). How to register the plugins: ``plugins/README.md``.

    Raises:
        PluginBuildError: nvcc or the headers are missing, or see :func:`build`.
    """
    _, headers = tensorrt_toolchain(tensorrt_root)
    definitions = {**_with_kernels(architecture), "TensorRT_INCLUDE_DIR": str(headers)}
    return build("course_plugins", file_name="libcourse_plugins.so", **definitions)


# --- loading ----------------------------------------------------------------------------------------------------------

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
_ROI_TAIL = [_INT] * 5  # output_height, output_width, sampling_ratio, mode, aligned

# Argument types of the C interface, without the type codes and the trailing stream, which differ between the libraries.
_SIGNATURES: dict[str, tuple[list[Any], list[Any]]] = {
    # name: (pointers that come first, sizes and options that come after the type codes)
    "roi_align": ([_POINTER] * 3, [_INT] * 7 + [_DOUBLE] + [_INT] * 3),
    "multi_level_roi_align": ([_POINTER] * 3, [_INT] * 3 + [_POINTER] * 3 + [_DOUBLE, _INT, *_ROI_TAIL]),
    "grid_sampler": ([_POINTER] * 3, [_INT] * 9),
    "non_max_suppression": ([_POINTER] * 4, [_INT] * 3 + [_LONG, _DOUBLE, _DOUBLE, _INT, _INT]),
    "scatter_nd": ([_POINTER] * 4, [_POINTER, _INT, _LONG, _INT]),
}
_TYPE_CODES_TAKEN = {  # (host, CUDA)
    "roi_align": (1, 2),
    "multi_level_roi_align": (1, 2),
    "grid_sampler": (1, 2),
    "non_max_suppression": (1, 1),
    "scatter_nd": (2, 2),
}


def load_library(path: Path, kind: Literal["host", "cuda"]) -> ctypes.CDLL:
    """Load a built library and declare its functions, ``course_<operator>_<kind>``; each returns a status code.

    Raises:
        PluginBuildError: the file is missing, damaged, or lacks a function.
    """
    try:
        library = ctypes.CDLL(str(path))
        for operator, (pointers, rest) in _SIGNATURES.items():
            function = getattr(library, f"course_{operator}_{kind}")
            types = [_INT] * _TYPE_CODES_TAKEN[operator][kind == "cuda"]
            function.argtypes = [*pointers, *types, *rest, *([_POINTER] if kind == "cuda" else [])]
            function.restype = _INT
        if kind == "cuda":
            library.course_non_max_suppression_workspace.argtypes = [_INT, _INT, _INT, _LONG]
            library.course_non_max_suppression_workspace.restype = ctypes.c_size_t
    except (OSError, AttributeError) as error:
        raise PluginBuildError(
            f"the plugin library {Path(path).name} cannot be loaded ({error})",
            "delete it and run the same command again",
        ) from error
    return library


def register_plugins(path: Path) -> dict[str, str]:
    """Register the plugins of ``libcourse_plugins.so`` with the TensorRT that this process has loaded.

    Returns how it went, by the plugin's name (the ONNX node type): "registered"; "present", the registry held that name
    already and keeps what it held; or "refused", and TensorRT's log says why.

    Raises:
        PluginBuildError: the file is missing, damaged, not such a library, or does not fit what is loaded.
    """
    try:
        register = ctypes.CDLL(str(path)).course_plugins_register
    except (OSError, AttributeError) as error:
        raise PluginBuildError(
            f"the plugin library {Path(path).name} cannot be loaded ({error})", "build it against this TensorRT"
        ) from error
    register.argtypes, register.restype = [], ctypes.c_char_p
    outcome: dict[str, str] = dict(line.split(" ", 1) for line in register().decode().splitlines())
    return outcome


@functools.cache
def _host() -> ctypes.CDLL:
    return load_library(build_host_library(), "host")


# --- calling ----------------------------------------------------------------------------------------------------------


def _float_arrays(operator: str, **arrays: Array) -> tuple[list[Array], int]:
    """Dense copies of one common float type, and its code."""
    kinds = {np.asarray(array).dtype.name for array in arrays.values()}
    if kinds not in ({"float32"}, {"float64"}):
        named = ", ".join(f"{name} {np.asarray(array).dtype}" for name, array in arrays.items())
        raise BadOperatorInput(f"{operator} got {named}", "pass all of them as float32 (or all as float64)")
    return [np.ascontiguousarray(array) for array in arrays.values()], TYPE_CODES[kinds.pop()]


def _expect(operator: str, name: str, array: Array, *shape: int | None) -> None:
    """Check an array's rank and those dimensions that are given."""
    fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise BadOperatorInput(f"{operator} got {name} of shape {array.shape}", f"pass it with shape ({wanted})")


def _whole(operator: str, name: str, value: int, low: int, high: int) -> int:
    """A whole number within bounds; what leaves 32 bits would be cut silently on its way into the library."""
    try:
        number = index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise BadOperatorInput(f"{operator} got {name} {value!r}", f"pass a whole number from {low} to {high}")
    return number


def _positive(operator: str, name: str, value: float) -> float:
    if not (isinstance(value, int | float | np.number) and 0 < value < np.inf):
        raise BadOperatorInput(f"{operator} got {name} {value!r}", "pass a number above 0")
    return float(value)


def _roi_options(
    operator: str, output_size: tuple[int, int], sampling_ratio: int, mode: str, aligned: bool
) -> tuple[int, int, int, int, int]:
    """What both RoI operators are told, as the C interface takes it, after the same checks as in the plugin classes."""
    height, width = output_size if np.shape(output_size) == (2,) else (0, 0)
    height = _whole(operator, "output height", height, 1, MAX_BINS)
    return (
        height,
        _whole(operator, "output width", width, 1, MAX_BINS // height),
        _whole(operator, "sampling_ratio", sampling_ratio, 0, MAX_GRID),
        _option(operator, "mode", mode, _MODES),
        _whole(operator, "aligned", aligned, 0, 1),
    )


def _option(operator: str, name: str, value: str, choices: dict[str, int]) -> int:
    if value not in choices:
        raise BadOperatorInput(f"{operator} knows no {name} {value!r}", f"use one of: {', '.join(choices)}")
    return choices[value]


def _check(operator: str, status: int) -> None:
    if status == _INDEX_OUT_OF_RANGE:
        raise BadOperatorInput(f"{operator} got an index outside the data", "check the indices")
    if status != 0:
        raise BadOperatorInput(f"{operator} refused its sizes or options (status {status})", "check what is passed")


def _pointer(array: Array) -> int:
    return int(array.ctypes.data)


_MODES = {"max": 0, "avg": 1}


def roi_align(
    features: Array,
    rois: Array,
    output_size: tuple[int, int],
    spatial_scale: float,
    *,
    sampling_ratio: int = 0,
    mode: Mode = "avg",
    aligned: bool = True,
) -> Array:
    """mmcv's RoIAlign, on the host.

    features: (batch, channels, height, width). rois: (n, 5), batch index then x1, y1, x2, y2 in picture pixels;
    ``spatial_scale`` maps them to feature pixels. Returns (n, channels, *output_size).

    What has no defined answer in mmcv has one here: see ``plugins/roi_align/roi_align_math.h``.

    Raises:
        BadOperatorInput, PluginBuildError.
    """
    operator = "MMCVRoiAlign"
    (features, rois), code = _float_arrays(operator, features=features, rois=rois)
    _expect(operator, "features", features, None, None, None, None)
    _expect(operator, "rois", rois, None, 5)
    height, width, *options = _roi_options(operator, output_size, sampling_ratio, mode, aligned)
    scale = _positive(operator, "spatial_scale", spatial_scale)
    output = np.empty((len(rois), features.shape[1], height, width), features.dtype)
    pointers = map(_pointer, (features, rois, output))
    status = _host().course_roi_align_host(*pointers, code, *features.shape, len(rois), height, width, scale, *options)
    _check(operator, status)
    return output


def multi_level_roi_align(
    features: Sequence[Array],
    rois: Array,
    output_size: tuple[int, int],
    strides: Sequence[float],
    *,
    finest_scale: float = 56,
    sampling_ratio: int = 0,
    mode: Mode = "avg",
    aligned: bool = True,
) -> Array:
    """mmdet's SingleRoIExtractor, on the host: each RoI sampled on the pyramid level that its size selects.

    features: one (batch, channels, height_l, width_l) a level; strides: picture pixels a feature pixel, one a level.
    The rest as in :func:`roi_align`.

    Raises:
        BadOperatorInput, PluginBuildError.
    """
    operator = "MultiLevelRoIAlign"
    named = {f"features[{level}]": array for level, array in enumerate(features)}
    (rois, *maps), code = _float_arrays(operator, rois=rois, **named)
    if not 1 <= len(maps) <= MAX_LEVELS or len(strides) != len(maps):
        raise BadOperatorInput(
            f"{operator} got {len(maps)} levels and {len(strides)} strides",
            f"pass one stride for each of 1 to {MAX_LEVELS}",
        )
    _expect(operator, "rois", rois, None, 5)
    _expect(operator, "features[0]", maps[0], None, None, None, None)
    batch, channels = maps[0].shape[:2]
    for name, array in zip(named, maps, strict=True):
        _expect(operator, name, array, batch, channels, None, None)
    options = _roi_options(operator, output_size, sampling_ratio, mode, aligned)
    finest_scale = _positive(operator, "finest_scale", finest_scale)
    output = np.empty((len(rois), channels, *options[:2]), rois.dtype)
    heights = np.array([array.shape[2] for array in maps], np.int32)
    widths = np.array([array.shape[3] for array in maps], np.int32)
    scales = np.array([1 / _positive(operator, "stride", stride) for stride in strides])
    pointers = (ctypes.c_void_p * len(maps))(*map(_pointer, maps))
    sizes = (len(maps), batch, channels, *map(_pointer, (heights, widths, scales)))
    status = _host().course_multi_level_roi_align_host(
        ctypes.addressof(pointers), _pointer(rois), _pointer(output), code, *sizes, finest_scale, len(rois), *options
    )
    _check(operator, status)
    return output


def grid_sampler(
    values: Array,
    grid: Array,
    *,
    interpolation: str = "bilinear",
    padding: str = "zeros",
    align_corners: bool = False,
) -> Array:
    """torch.nn.functional.grid_sample for pictures, on the host.

    values: (batch, channels, height, width); grid: (batch, out_height, out_width, 2), x before y, -1 to 1 across the
    picture. Returns (batch, channels, out_height, out_width).

    Raises:
        BadOperatorInput: among others for volumes (5-D), which the plugin does not take.
        PluginBuildError.
    """
    operator = "grid_sampler"
    (values, grid), code = _float_arrays(operator, values=values, grid=grid)
    if values.ndim == 5:
        raise BadOperatorInput(f"{operator} got a volume (5-D)", "pass pictures (4-D); mask pasting needs no more")
    _expect(operator, "values", values, None, None, None, None)
    _expect(operator, "grid", grid, len(values), None, None, 2)
    output = np.empty((*values.shape[:2], *grid.shape[1:3]), values.dtype)
    status = _host().course_grid_sampler_host(
        *map(_pointer, (values, grid, output)),
        code,
        *values.shape,
        *grid.shape[1:3],
        _option(operator, "interpolation", interpolation, INTERPOLATIONS),
        _option(operator, "padding", padding, PADDINGS),
        _whole(operator, "align_corners", align_corners, 0, 1),
    )
    _check(operator, status)
    return output


def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: int = 0,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    *,
    center_point_box: bool = False,
    offset: int = 0,
) -> npt.NDArray[np.int64]:
    """ONNX NonMaxSuppression, on the host, in ONNX Runtime's order.

    boxes: (batch, n, 4); scores: (batch, classes, n). Returns (selected, 3): picture, class, box. Equal scores are
    visited by rising index.

    Raises:
        BadOperatorInput, PluginBuildError.
    """
    operator = "NonMaxSuppression"
    (boxes, scores), code = _float_arrays(operator, boxes=boxes, scores=scores)
    _expect(operator, "boxes", boxes, None, None, 4)
    batch, count = boxes.shape[:2]
    _expect(operator, "scores", scores, batch, None, count)
    if not 0 <= iou_threshold <= 1:
        raise BadOperatorInput(f"{operator} got iou_threshold {iou_threshold}", "pass a number from 0 to 1")
    limit = max(0, min(max_output_boxes_per_class, count))
    selected = np.empty((batch * scores.shape[1] * limit, 3), np.int64)
    rows = ctypes.c_int64()
    status = _host().course_non_max_suppression_host(
        *map(_pointer, (boxes, scores, selected)),
        ctypes.addressof(rows),
        code,
        batch,
        scores.shape[1],
        count,
        limit,
        iou_threshold,
        float("nan") if score_threshold is None else score_threshold,
        _whole(operator, "center_point_box", center_point_box, 0, 1),
        _whole(operator, "offset", offset, 0, 1),
    )
    _check(operator, status)
    return selected[: rows.value].copy()


def scatter_nd(data: Array, indices: Array, updates: Array) -> Array:
    """ONNX ScatterND without reduction, on the host.

    data: any shape up to 8-D, float16, float32, float64, int32 or int64. indices: integers (..., depth). updates: the
    shape of indices without its last dimension, then data's dimensions after the first ``depth``. Where rows repeat,
    the last one wins.

    Raises:
        BadOperatorInput: also for an index out of range.
        PluginBuildError.
    """
    operator = "ScatterND"
    data, updates = np.ascontiguousarray(data), np.ascontiguousarray(updates)
    indices = np.ascontiguousarray(indices)
    if data.dtype.name not in TYPE_CODES or updates.dtype != data.dtype:
        raise BadOperatorInput(
            f"{operator} got data {data.dtype} and updates {updates.dtype}",
            f"pass both as one of: {', '.join(TYPE_CODES)}",
        )
    if indices.dtype.name not in ("int32", "int64") or indices.ndim < 1 or not 1 <= indices.shape[-1] <= data.ndim <= 8:
        raise BadOperatorInput(
            f"{operator} got indices {indices.dtype} of shape {indices.shape} for data of shape {data.shape}",
            "pass int32 or int64, the last dimension from 1 to the rank of data (at most 8)",
        )
    depth = indices.shape[-1]
    _expect(operator, "updates", updates, *indices.shape[:-1], *data.shape[depth:])
    output = np.empty_like(data)
    dims = np.array(data.shape, np.int64)
    status = _host().course_scatter_nd_host(
        *map(_pointer, (data, indices, updates, output)),
        TYPE_CODES[data.dtype.name],
        TYPE_CODES[indices.dtype.name],
        _pointer(dims),
        data.ndim,
        int(np.prod(indices.shape[:-1], dtype=np.int64)),
        depth,
    )
    _check(operator, status)
    return output
