"""The TensorRT plugin classes, driven without TensorRT: compiled against a stand-in of its plugin interface.

``plugins/tests/fake_tensorrt`` declares what the classes use, of both plugin interfaces; ``plugin_classes_test.cpp``
calls them as the documentation says TensorRT does, with the host loops in the kernels' place. With real headers at hand
(``TENSORRT_ROOT``), the same test is compiled against those too.
"""

from __future__ import annotations

import graphlib
import re
import subprocess
from pathlib import Path

import pytest

from helpers.operators import library as plugin_library
from helpers.paths import PLUGINS

QUICK = {"CMAKE_CXX_FLAGS_RELEASE": "-O0", "CMAKE_COMPILE_WARNING_AS_ERROR": "ON"}


def said_by(program: Path) -> str:
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    return f"{done.stdout}{done.stderr}exit code {done.returncode}"


@pytest.mark.parametrize("major", [8, 10])
def test_the_plugin_classes_keep_their_promises(major):
    """IPluginV2DynamicExt for TensorRT 8, IPluginV3 for 10 and later."""
    program = plugin_library.build(f"plugin_classes_{major}", **QUICK)
    assert said_by(program) == "plugin classes: all as expected\nexit code 0"


def test_without_headers_the_error_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setattr(plugin_library, "find_nvcc", lambda: "nvcc")
    with pytest.raises(plugin_library.PluginBuildError, match="NvInferRuntime.h.*TENSORRT_ROOT"):
        plugin_library.build_tensorrt_library("sm_90", tensorrt_root=tmp_path)


needs_headers = pytest.mark.skipif(
    not (plugin_library.find_tensorrt_headers() and plugin_library.find_nvcc()),
    reason="needs TensorRT's headers (TENSORRT_ROOT) and nvcc",
)


@needs_headers
def test_the_plugin_classes_compile_against_real_headers():
    nvcc, headers = plugin_library.tensorrt_toolchain()
    definitions = {"CMAKE_CUDA_COMPILER": nvcc, "CMAKE_CUDA_ARCHITECTURES": "90", "TensorRT_INCLUDE_DIR": headers}
    program = plugin_library.build("plugin_classes_real", **QUICK, **definitions)
    assert said_by(program) == "plugin classes: all as expected\nexit code 0"


@pytest.mark.skipif(plugin_library.find_nvcc() is None, reason="no nvcc")
@pytest.mark.parametrize("headers", ["stand-in", pytest.param("TensorRT", marks=needs_headers)])
def test_the_whole_plugin_library_is_built(headers):
    """Optimised, warnings being errors: what may be used before it has a value, a compiler sees only then."""
    root = PLUGINS / "tests" / "fake_tensorrt" if headers == "stand-in" else None
    library = plugin_library.build_tensorrt_library("sm_90", tensorrt_root=root)
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    for name in ("course_plugins_register", "setLoggerFinder", "course_roi_align_cuda"):
        assert f" T {name}\n" in symbols
    assert (" T getCreators\n" in symbols) != (" T getPluginCreators\n" in symbols)  # by TensorRT's version
    # All that is left to resolve, beside versioned symbols of the system's libraries, is TensorRT's.
    undefined = {line.split()[-1] for line in symbols.splitlines() if " U " in line}
    assert {name for name in undefined if "@" not in name} == {"getLogger", "getPluginRegistry"}


def test_the_parser_finds_each_exported_operator():
    """The names that the graph's nodes have are the names that the creators register."""
    registered = {
        line.split('"')[1]
        for path in PLUGINS.glob("*/*_plugin.cpp")
        for line in path.read_text().splitlines()
        if "static const char* name()" in line
    }
    assert registered == {"MMCVRoiAlign", "grid_sampler", "MultiLevelRoIAlign"}


def test_no_folder_includes_from_one_that_includes_from_it():
    """The pyramid's RoIAlign is made of RoIAlign, which knows nothing of it."""
    used = {
        folder.name: {
            found
            for path in folder.iterdir()
            for found in re.findall(r'#include\s+"\.\./(\w+)/', path.read_text())
            if found != folder.name
        }
        for folder in PLUGINS.iterdir()
        if folder.is_dir() and folder.name != "tests"
    }
    assert "roi_align" in used["multi_level_roi_align"]
    assert used["roi_align"] <= {"common", "tensorrt"}
    graphlib.TopologicalSorter(used).prepare()  # a circle is its CycleError
