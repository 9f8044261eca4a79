"""The modules of helpers/tensorrt against TensorRT's signatures: the check passes, and it is a check."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
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


def test_the_modules_fit_tensorrt(script: Any) -> None:
    good, words = script.check()
    assert good, words


# A name of one of the modules, and the same as TensorRT has it not.
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
    lines = {path: path.read_text().splitlines(keepends=True) for path in script.MODULES}
    expected = set()
    for right, wrong in WRONG.items():
        ((path, number),) = ((p, n) for p, text in lines.items() for n, line in enumerate(text) if right in line)
        lines[path][number] = lines[path][number].replace(right, wrong)
        expected.add((f"copy_{path.name}", number + 1))
    copies = [tmp_path / f"copy_{path.name}" for path in lines]
    for copy, text in zip(copies, lines.values(), strict=True):
        copy.write_text("".join(text))
    good, words = script.check(copies)
    assert not good
    errors = [line.split(":") for line in words.splitlines() if ": error:" in line]
    found = {(Path(name).name, int(number)) for name, number, *_ in errors}
    assert found == expected, words


def test_a_feature_that_tensorrt_has_not_is_found(script: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy_runner.py"
    copy.write_text(script.MODULES[-1].read_text().replace('"num_io_tensors"', '"num_io_tensor"'))
    good, words = script.check([copy])
    assert not good
    assert words.endswith("with hasattr: num_io_tensor")


def test_names_are_looked_up_in_the_bindings_of_a_later_version(script: Any, tmp_path: Path) -> None:
    stubs = "class Builder:\n    flag: int\n    def build(self) -> None: ...\n    def itemsize(self) -> None: ...\n"
    module = "builder.build(trt.Builder.flag, kind.itemsize); os.path.join(hasattr)"
    wheel = tmp_path / "bindings.whl"

    def lacking(strings: bytes) -> list[str]:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tensorrt_bindings/tensorrt.so", strings)
            archive.writestr("tensorrt_bindings/__init__.py", "DataType.itemsize = 4  # builds")
        names: list[str] = script.unknown_to_bindings([module], stubs, wheel)
        return names

    assert lacking(b"\0Builder\0build\0another_flag\0") == []
    assert lacking(b"\0Builder\0builds\0a docstring on flag and build.\0") == ["build", "flag"]
    with pytest.raises(script.StubError, match=r"bindings\.whl cannot be read"):
        wheel.write_bytes(b"no zip")
        script.unknown_to_bindings([module], stubs, wheel)


def test_what_11_lacks_is_used_with_care_only(script: Any) -> None:
    """Each name that is gone stands after a hasattr of it, or where an engine is weakly typed."""
    text = script.MODULES[1].read_text()
    weak = text[text.index("def _set_precision") : text.index("def _onnx_name")]
    assert 'options.typing == "strong":\n        return' in weak
    for name, where in script.GONE.items():
        rest = text.replace(weak, "").replace("options.precision", "")
        assert (f'"{name}")' in rest) == where.startswith("after hasattr")
        assert where.startswith("after hasattr") or f".{name}" not in rest


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
