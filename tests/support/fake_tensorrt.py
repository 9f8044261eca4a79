"""A recording fake of TensorRT and pycuda, for the tests of what calls them. It computes nothing."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from helpers.tensorrt import runtime


class Recorder:
    """Remembers each call by name; what it answers can be set, otherwise it answers True."""

    def __init__(self, calls: list[str], prefix: str, **answers: Any) -> None:
        self.__dict__.update(_calls=calls, _prefix=prefix, _answers=answers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        answer = self._answers.get(name, True)
        if answer is AttributeError:
            raise AttributeError(name)
        if not callable(answer) and name in self._answers:
            return answer

        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls.append(f"{self._prefix}.{name}")
            return answer(*args, **kwargs) if callable(answer) else answer

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        self._calls.append(f"{self._prefix}.{name}=")
        self._answers[name] = value


class Fake:
    """A TensorRT of a generation: "8.4", "10" or "11"."""

    def __init__(self, version: str, **parts: Any) -> None:
        self.calls: list[str] = []
        self.network_flags: list[int] = []
        self.parsed: list[bytes] = []
        calls = self.calls
        flags = {"TF32": 0, "FP16": 1, "OBEY_PRECISION_CONSTRAINTS": 2} if version != "11" else {"TF32": 0}
        tensor = types.SimpleNamespace(name="input", shape=(1, 3, 4, 4), dtype="float32")
        layer = Recorder(calls, "layer", name="conv", metadata="", num_outputs=1, get_output=lambda _: tensor)
        network = {"num_layers": 1, "get_layer": lambda _: layer, "num_inputs": 1, "get_input": lambda _: tensor}
        config = Recorder(calls, "config", **parts.get("config", {}))
        creation = {"8.4": {"EXPLICIT_BATCH": 0}, "10": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}}

        def make_network(wanted: int) -> Any:
            self.network_flags.append(wanted)
            return Recorder(calls, "network", **{**network, **parts.get("network", {})})

        def parse(data: bytes) -> bool:
            self.parsed.append(data)
            return True

        self.builder = Recorder(
            calls,
            "builder",
            create_network=make_network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: Recorder(calls, "profile"),
            **{"build_serialized_network": lambda *_: b"engine", **parts.get("builder", {})},
        )
        parser = Recorder(calls, "parser", **{"parse": parse, **parts.get("parser", {})})

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING = "i", "e", "w"

        self.logger: Any = None

        def make_builder(logger: Any) -> Any:
            self.logger = logger
            return self.builder

        self.module = types.SimpleNamespace(
            __version__=version,
            ILogger=ILogger,
            Builder=make_builder,
            OnnxParser=lambda *_: parser,
            BuilderFlag=types.SimpleNamespace(**flags),
            NetworkDefinitionCreationFlag=types.SimpleNamespace(**creation.get(version, {"STRONGLY_TYPED": 0})),
            MemoryPoolType=types.SimpleNamespace(WORKSPACE=0),
            float32="float32",
            float16="float16",
            nptype=np.dtype,
            init_libnvinfer_plugins=lambda *_: calls.append("init_libnvinfer_plugins"),
            **parts.get("module", {}),
        )
        if version != "8.4":
            self.module.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
            self.module.IOutputAllocator = type("IOutputAllocator", (), {})


class FakeCuda:
    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self, calls: list[str], *, full: bool = False) -> None:
        self.calls, self.full = calls, full
        context = Recorder(calls, "gpu")
        self.Device = lambda _: types.SimpleNamespace(
            name=lambda: "Fake GPU", compute_capability=lambda: (8, 6), retain_primary_context=lambda: context
        )

    def Stream(self) -> Any:
        return Recorder(self.calls, "stream", handle=7)

    def Event(self) -> Any:
        return Recorder(self.calls, "event", time_since=lambda _: 2.5)

    def mem_get_info(self) -> tuple[int, int]:
        self.calls.append("mem_get_info")
        return 30, 40

    def mem_alloc(self, size: int) -> int:
        self.calls.append("mem_alloc")
        if self.full:
            raise self.MemoryError("out of memory")
        return 4096

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.calls.append("pinned")
        return np.zeros(shape, dtype)

    def memcpy_htod_async(self, *_: Any) -> None:
        self.calls.append("to device")

    def memcpy_dtoh_async(self, *_: Any) -> None:
        self.calls.append("to host")


def use(monkeypatch: pytest.MonkeyPatch, fake: Fake, *, full: bool = False) -> list[str]:
    cuda = FakeCuda(fake.calls, full=full)
    monkeypatch.setattr(runtime, "tensorrt", lambda: fake.module)
    monkeypatch.setattr(runtime, "cuda", lambda: cuda)
    return fake.calls


def give_engine(fake: Fake, *, late: bool = False, good: bool = True) -> None:
    """Give the fake a runtime: one input, one output, named or by index."""
    out_shape = (-1, 3) if late else (1, 2)
    context = Recorder(
        fake.calls, "context", get_tensor_shape=lambda _: out_shape, get_binding_shape=lambda _: (1, 2),
        execute_async_v3=lambda *_: good, execute_async_v2=lambda **_: good,
    )  # fmt: skip
    if late:

        def bind(name: str, allocator: Any) -> bool:
            allocator.reallocate_output(name, 0, 24, 256)
            allocator.notify_shape(name, (2, 3))
            return True

        context._answers["set_output_allocator"] = bind
    names = {"create_execution_context": lambda: context}
    if hasattr(fake.module, "TensorIOMode"):
        names |= {
            "num_io_tensors": 2,
            "get_tensor_name": lambda index: ("input", "y")[index],
            "get_tensor_mode": lambda name: "in" if name == "input" else "out",
            "get_tensor_dtype": lambda _: "float32",
            "get_tensor_shape": lambda _: (-1, 3),
        }
    else:
        names |= {
            "num_io_tensors": AttributeError,
            "num_bindings": 2,
            "get_binding_name": lambda index: ("input", "y")[index],
            "get_binding_dtype": lambda _: "float32",
            "binding_is_input": lambda index: index == 0,
            "get_binding_shape": lambda _: (-1, 3),
        }
    engine = Recorder(fake.calls, "engine", **names)
    fake.module.Runtime = lambda _: Recorder(fake.calls, "runtime", deserialize_cuda_engine=lambda _: engine)
