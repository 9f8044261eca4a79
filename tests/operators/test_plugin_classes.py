"""The TensorRT plugin classes, driven without TensorRT: compiled against a stand-in of its plugin interface.

``plugins/tests/fake_tensorrt`` declares what the classes use, ``plugin_classes_test.cpp`` calls them as the
documentation says TensorRT does, with the host loops in the kernels' place. With real headers at hand
(``TENSORRT_ROOT``), the same test is compiled against those too.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.operators import library as plugin_library
from helpers.paths import PLUGINS, build_root

FAKE = PLUGINS / "tests" / "fake_tensorrt"


def compile_and_run(headers: list[Path], name: str) -> str:
    program = build_root() / "plugins" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    sources = [PLUGINS / "tests" / "plugin_classes_test.cpp", PLUGINS / "tensorrt" / "registry.cpp"]
    sources += [*sorted(PLUGINS.glob("*/*_plugin.cpp")), *sorted(PLUGINS.glob("*/*_host.cpp"))]
    flags = [
        "-std=c++17",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-deprecated-declarations",
        "-Wno-overloaded-virtual",
    ]
    flags += [part for folder in headers for part in ("-isystem", str(folder))]
    plugin_library.run_compiler([plugin_library.find_cxx() or "c++", *flags, *sources, "-o", program])
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_the_plugin_classes_keep_their_promises():
    assert compile_and_run([FAKE], "plugin_classes_fake").strip() == "plugin classes: all as expected"


def test_without_headers_the_error_names_the_variable(monkeypatch, tmp_path):
    monkeypatch.setattr(plugin_library, "find_nvcc", lambda: "nvcc")
    with pytest.raises(plugin_library.PluginBuildError, match="NvInferRuntime.h.*TENSORRT_ROOT"):
        plugin_library.build_tensorrt_library("sm_90", tensorrt_root=tmp_path)


def real_headers() -> list[Path]:
    """TensorRT's and CUDA's include folders, empty unless ``TENSORRT_ROOT`` names a real TensorRT."""
    found = plugin_library.find_tensorrt_headers()
    nvcc = plugin_library.find_nvcc()
    cuda = [Path("/usr/local/cuda/include"), *sorted(Path("/usr/local").glob("cuda-*/include"))]
    cuda += [Path(nvcc).resolve().parent.parent / "include"] if nvcc else []
    return [
        *([found] if found else []),
        *[f for f in cuda if (f / "cuda_runtime_api.h").is_file()][:1],
    ]


@pytest.mark.skipif(len(real_headers()) < 2, reason="needs TensorRT's headers (TENSORRT_ROOT) and CUDA's")
def test_the_plugin_classes_compile_against_real_headers():
    assert compile_and_run(real_headers(), "plugin_classes_real").strip() == "plugin classes: all as expected"


@pytest.mark.skipif(len(real_headers()) < 2 or not plugin_library.find_nvcc(), reason="needs headers and nvcc")
def test_the_whole_plugin_library_is_built():
    library = plugin_library.build_tensorrt_library("sm_90")
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    for name in ("course_plugins_register", "getPluginCreators", "setLoggerFinder", "course_roi_align_cuda"):
        assert f" T {name}\n" in symbols
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
    assert registered == {"MMCVRoiAlign", "grid_sampler", "NonMaxSuppression", "ScatterND", "MultiLevelRoIAlign"}
