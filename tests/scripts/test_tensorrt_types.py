"""helpers/tensorrt/runner.py against TensorRT's signatures: the check passes, and it is a check."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import REPO_ROOT


@pytest.fixture(scope="module")
def script() -> Any:
    path = REPO_ROOT / "scripts" / "check_tensorrt_types.py"
    spec = importlib.util.spec_from_file_location("check_tensorrt_types", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_runner_fits_tensorrt(script: Any) -> None:
    good, words = script.check()
    assert good, words


# A name of the runner, and the same as TensorRT has it not.
WRONG = {
    "builder.build_serialized_network(": "builder.build_serialised_network(",
    "trt.MemoryPoolType.WORKSPACE": "trt.MemoryPoolType.WORKING",
    "self.context.set_tensor_address(name, self.send": "self.context.bind_tensor(name, self.send",
    "self.context.execute_async_v3(self.stream.handle)": "self.context.execute_async_v3(self.stream, 0)",
    "profile.set_shape(name, least": "profile.set_shape(name, 'least'",
    "trt.Runtime(": "trt.RunTime(",
    "layer.set_output_type(number, trt.float32)": "layer.set_output_type(trt.float32, number)",
    "parser.num_errors": "parser.error_count",
    "def step_complete(": "def step_done(",
    "def notify_shape(": "def notified_shape(",
    "self.bound.binding_is_input(": "self.bound.is_input(",
    "engine.get_tensor_mode(": "engine.get_binding_mode(",
}


def test_each_wrong_name_in_a_copy_is_found(script: Any, tmp_path: Path) -> None:
    lines = script.RUNNER.read_text().splitlines(keepends=True)
    expected = set()
    for right, wrong in WRONG.items():
        (number,) = (n for n, line in enumerate(lines) if right in line)
        lines[number] = lines[number].replace(right, wrong)
        expected.add(number + 1)
    copy = tmp_path / "tensorrt_runner.py"
    copy.write_text("".join(lines))
    good, words = script.check(copy)
    assert not good
    found = {int(line.split(":")[1]) for line in words.splitlines() if ": error:" in line}
    assert found == expected, words


def test_a_feature_that_tensorrt_has_not_is_found(script: Any, tmp_path: Path) -> None:
    copy = tmp_path / "tensorrt_runner.py"
    copy.write_text(script.RUNNER.read_text().replace('"num_io_tensors"', '"num_io_tensor"'))
    good, words = script.check(copy)
    assert not good
    assert words.endswith("with hasattr: num_io_tensor")


def test_repairs_that_do_not_fit_are_an_error(script: Any) -> None:
    whole = "".join(repair.old * repair.count + "\n" for repair in script.REPAIRS)
    for repair in script.REPAIRS:
        with pytest.raises(script.StubError, match=f"fits {repair.count - 1} times instead of {repair.count}"):
            script.repaired(whole.replace(repair.old, "", 1))
    with pytest.raises(script.StubError, match="still no Python"):
        script.repaired(whole)


def test_without_the_stubs_it_says_so(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(script.StubError, match="tensorrt-stubs is not installed"):
        script.make_stubs(tmp_path)
