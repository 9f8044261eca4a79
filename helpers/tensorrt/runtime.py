"""What there is of full TensorRT (8.4 to 11) on this machine: its module, the CUDA driver, its log, our plugins in it.

Builder and runner stand on it. Needs a GPU, TensorRT and pycuda; :func:`why_not` says what is missing. What differs
between the versions is found with ``hasattr``, here and in both: named tensors (bindings by index before 8.5), strongly
typed networks (from 9.0 on), flags that are gone. The tests prove the order of calls and the error paths only, against
a recording fake; ``scripts/verify_tensorrt.py`` is the proof on a machine with a GPU and TensorRT, and until a record
of it is in ``evidence/``, nobody has seen these modules run an engine. Names and signatures are checked against
TensorRT's type stubs by ``scripts/check_tensorrt_types.py``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from typing_extensions import override

from helpers.errors import CourseError
from helpers.operators import library as plugin_library

if TYPE_CHECKING:
    import tensorrt as trt
else:

    class _TensorRT:
        """``trt.X`` is TensorRT's X, looked up when it is used: this module can be imported without TensorRT."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tensorrt(), name)

    trt = _TensorRT()

__all__ = [
    "Log",
    "PluginLibraryError",
    "TensorRTMissingError",
    "build_plugin_library",
    "cuda",
    "device_memory",
    "load_plugins",
    "machine",
    "tensorrt",
    "trt",
    "why_not",
]


class TensorRTMissingError(CourseError):
    """There is no TensorRT, no pycuda, or no GPU here."""


class PluginLibraryError(CourseError):
    """The plugin library is missing, cannot be loaded, or did not register its creators."""


# --- what is here -----------------------------------------------------------------------------------------------------


def tensorrt() -> Any:
    """NVIDIA's package. Raises :class:`TensorRTMissingError`."""
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


def cuda() -> Any:
    """pycuda's driver, started, with a GPU. Raises :class:`TensorRTMissingError`."""
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
        tensorrt()
        cuda()
        plugin_library.tensorrt_toolchain()
    except (TensorRTMissingError, plugin_library.PluginBuildError) as error:
        return str(error)
    return None


def machine() -> dict[str, Any]:
    """TensorRT's version, the GPU's name and compute capability: an engine belongs to all three."""
    device = cuda().Device(0)
    return {
        "tensorrt": trt.__version__,
        "gpu": device.name(),
        "compute capability": ".".join(map(str, device.compute_capability())),
    }


def device_memory() -> tuple[int, int]:
    """(free, total) bytes of the GPU, whoever uses them. Raises :class:`TensorRTMissingError`."""
    driver = cuda()
    # The context that the engines use; it takes memory itself, and is counted before and after alike.
    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        free, total = driver.mem_get_info()
    finally:
        context.pop()
    return int(free), int(total)


class Log:
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
    major, minor = cuda().Device(0).compute_capability()
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
    tensorrt()
    if not Path(path).is_file():
        raise PluginLibraryError(f"there is no plugin library {path}", "build it: see plugins/README.md")
    log = Log()
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
