"""Run TensorRT engines, with full TensorRT 8.4 to 11: tensors by name, or bindings by index before 8.5.

How far this is proven: :mod:`helpers.tensorrt.runtime`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from helpers import artifacts
from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput
from helpers.errors import CourseError
from helpers.graph import detect
from helpers.graph.runner import Arrays, RunnerError, checked_feeds, checked_outputs
from helpers.tensorrt import runtime
from helpers.tensorrt.runtime import Log, trt

__all__ = ["EngineFileError", "EngineRunError", "TensorRTRunner"]

Shape = tuple[int, ...]


class EngineFileError(CourseError):
    """An engine file is missing, truncated, or made by another TensorRT or for another GPU."""


class EngineRunError(RunnerError):
    """An engine ran out of GPU memory, or failed; TensorRT's words are in the message."""


class TensorRTRunner:
    """One engine, ready to run; a context manager. ``lanes`` pictures can be in flight, each on a stream of its own.
    ``engine_ms``: milliseconds that the engine alone took on the GPU, without the copies, for the result given last.

    Raises:
        TensorRTMissingError: no TensorRT, pycuda or GPU.
        EngineFileError: the file is missing, truncated, or belongs to another TensorRT or GPU.
    """

    def __init__(self, path: Path, *, lanes: int = 1) -> None:
        runtime.tensorrt()
        self._cuda = runtime.cuda()
        self.path = Path(path)
        if lanes > 1 and not hasattr(trt, "TensorIOMode"):
            raise EngineRunError("this TensorRT cannot share a profile between streams", "use lanes=1")
        data = _read_engine(self.path)
        self.engine_ms: float | None = None
        self._context = self._cuda.Device(0).retain_primary_context()
        self._context.push()
        try:
            self._log = Log()
            self._runtime = trt.Runtime(self._log.logger)
            self.engine = self._runtime.deserialize_cuda_engine(data)
            if self.engine is None:
                raise EngineFileError(
                    f"TensorRT cannot open {self.path.name} and said: {self._log.words()}",
                    "delete it and build it here",
                )
            kind: type[_Lane] = _NamedLane if hasattr(self.engine, "num_io_tensors") else _IndexedLane
            self._lanes = [kind(self._cuda, self.engine, self._log) for _ in range(lanes)]
        except BaseException:
            self._context.pop()
            raise

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the GPU memory, contexts before the engine before the runtime, as TensorRT wants it."""
        if self._context is not None:
            self._lanes.clear()
            del self.engine, self._runtime
            self._context.pop()
            self._context = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """Of each input; a dimension that the profile leaves open is -1."""
        return {name: shape for name, (_, shape) in self._lanes[0].wanted().items()}

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._lanes[0].output_names)

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None, *, copy: bool = True
    ) -> Arrays:
        """As :meth:`helpers.graph.runner.Runner.run`; ``copy`` as for :meth:`run_many`.

        Raises:
            helpers.graph.runner.GraphInputError: a missing or wrong input, or an output that there is not.
            EngineRunError: too little GPU memory, or TensorRT failed.
        """
        wanted = checked_outputs(self.name, self.output_names, outputs)
        found = next(iter(self.run_many([feeds], copy=copy)))
        return {name: found[name] for name in wanted}

    def run_many(self, batches: Iterable[Mapping[str, npt.NDArray[Any]]], *, copy: bool = True) -> Iterator[Arrays]:
        """Run each, up to ``lanes`` at a time; results in the order of the inputs. Errors as for :meth:`run`.

        ``copy`` False gives the runner's own pinned memory: it holds until the next result is asked for. (The masks of
        one picture are 389 MB, whose copy takes longer than many an engine.)
        """
        waiting: deque[_Lane] = deque()
        free = deque(self._lanes)
        try:
            for inputs in batches:
                if not free:
                    lane = waiting.popleft()
                    yield self._result(lane, copy)
                    free.append(lane)
                lane = free.popleft()
                waiting.append(lane)
                with lane.translated():
                    lane.start(inputs)
            while waiting:
                yield self._result(waiting.popleft(), copy)
        finally:
            # After an error: nothing may still write into buffers that the next run uses.
            for lane in waiting:
                with contextlib.suppress(EngineRunError), lane.translated():
                    lane.wait()

    def _result(self, lane: _Lane, copy: bool) -> Arrays:
        with lane.translated():
            outputs = lane.finish()
            self.engine_ms = lane.engine_ms()
        return {name: array.copy() for name, array in outputs.items()} if copy else outputs

    def detect_many(self, batches: Sequence[Sequence[NetworkInput]]) -> Iterator[list[Detections]]:
        """For each batch, the detections of its pictures as :func:`helpers.graph.detect.detect_batch` gives them, one
        batch a run, up to ``lanes`` batches in flight. Errors as for :meth:`run`.
        """
        answers = self.run_many(map(detect.feeds, batches), copy=False)
        for batch, raw in zip(batches, answers, strict=True):
            yield detect.detections(raw, batch)


def _read_engine(path: Path) -> bytes:
    if not path.is_file():
        raise EngineFileError(f"there is no engine {path}", "build it with helpers.tensorrt.builder.make_engine")
    recorded = artifacts.recorded_inputs(path)
    if recorded is not None:
        here = runtime.machine()
        for name, have in here.items():
            if name in recorded and recorded[name] != have:
                raise EngineFileError(
                    f"{path.name} was built with {name} {recorded[name]}, and here is {have}",
                    "build it on this machine",
                )
        if not artifacts.is_current(path, recorded):
            raise EngineFileError(f"{path.name} is truncated or was changed", "delete it and build it again")
    return path.read_bytes()


class _Lane:
    """One execution context, its stream and its buffers, which only grow."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: Log) -> None:
        self.cuda, self.engine, self.log = cuda, engine, log
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EngineRunError(f"TensorRT made no context and said: {log.words()}", "free some GPU memory")
        self.stream = cuda.Stream()
        self.begun, self.ended = cuda.Event(), cuda.Event()
        self.device: dict[str, Any] = {}
        self.device_bytes: dict[str, int] = {}
        self.host: dict[str, npt.NDArray[Any]] = {}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        raise NotImplementedError

    def finish(self) -> Arrays:
        """Wait; every output by name, in memory that the next :meth:`start` writes to."""
        raise NotImplementedError

    def execute(self, run: Callable[[], bool]) -> None:
        self.begun.record(self.stream)
        good = run()
        self.ended.record(self.stream)
        self.require(good, "running the engine")

    def engine_ms(self) -> float:
        return float(self.ended.time_since(self.begun))

    def on_device(self, name: str, size: int) -> int:
        if self.device_bytes.get(name, -1) < size:
            # Given back first, so that both need not fit; nothing is left of it if the new one does not.
            self.device.pop(name, None)
            self.device_bytes.pop(name, None)
            try:
                self.device[name] = self.cuda.mem_alloc(max(size, 1))
            except self.cuda.MemoryError as error:
                raise EngineRunError(
                    f"no GPU memory for {name} ({size / 1e6:.0f} MB)", "use a smaller batch or fewer lanes"
                ) from error
            self.device_bytes[name] = size
        return int(self.device[name])

    def pinned(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        held = self.host.get(name)
        if held is None or held.shape != tuple(shape) or held.dtype != np.dtype(dtype):
            self.host.pop(name, None)
            try:
                held = self.host[name] = self.cuda.pagelocked_empty(tuple(shape), np.dtype(dtype))
            except self.cuda.MemoryError as error:
                raise EngineRunError(
                    f"no memory of the host for {name} ({list(shape)} {np.dtype(dtype)}) that a GPU can copy from",
                    "use a smaller batch or fewer lanes",
                ) from error
        return held

    #: The engine's outputs, in its order.
    output_names: Sequence[str]

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        """Type and shape of each input."""
        raise NotImplementedError

    def send(self, name: str, array: npt.NDArray[Any]) -> int:
        staged = self.pinned(name, array.shape, array.dtype)
        np.copyto(staged, array)
        address = self.on_device(name, staged.nbytes)
        self.cuda.memcpy_htod_async(address, staged, self.stream)
        return address

    def require(self, good: bool, what: str) -> None:
        if not good:
            raise EngineRunError(
                f"{what} failed, TensorRT said: {self.log.words()}", "check the profile and the inputs"
            )

    def fetch(self, name: str, address: int, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        # An output without elements has no memory to copy.
        target = self.pinned(name, shape, dtype)
        if target.size:
            self.cuda.memcpy_dtoh_async(target, address, self.stream)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """CUDA's errors, which any call may bring that comes after what went wrong, as the runner's own."""
        try:
            yield
        except self.cuda.Error as error:
            raise EngineRunError(
                f"the engine failed on the GPU ({error})", "run with CUDA_LAUNCH_BLOCKING=1"
            ) from error

    def wait(self) -> None:
        self.stream.synchronize()
        if self.log.errors:
            raise EngineRunError(f"TensorRT said: {self.log.words()}", "see the operator that it names")


class _NamedLane(_Lane):
    """Tensors by name (8.5 and later); outputs of unknown size through an output allocator."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: Log) -> None:
        super().__init__(cuda, engine, log)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.output_names = self.outputs = [name for name in names if name not in self.inputs]
        self.types = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in names}
        # No cycle: a lane that is dropped must free its context at once, before the engine goes.
        self.allocator = _output_allocator(weakref.proxy(self))
        self.late_shapes: dict[str, Shape] = {}

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        return {name: (self.types[name], tuple(self.engine.get_tensor_shape(name))) for name in self.inputs}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in checked_feeds("the engine", self.wanted(), inputs).items():
            self.require(self.context.set_input_shape(name, array.shape), f"setting the shape of {name}")
            self.require(self.context.set_tensor_address(name, self.send(name, array)), f"binding {name}")
        fixed = {}
        for name in self.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            if -1 in shape:
                self.require(self.context.set_output_allocator(name, self.allocator), f"binding {name}")
            else:
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(self.types[name]).itemsize
                fixed[name] = (self.on_device(name, size), shape)
                self.require(self.context.set_tensor_address(name, fixed[name][0]), f"binding {name}")
        self.execute(lambda: self.context.execute_async_v3(self.stream.handle))
        for name, (address, shape) in fixed.items():
            self.fetch(name, address, shape, self.types[name])
        self.fixed = fixed

    def finish(self) -> Arrays:
        self.wait()
        late = [name for name in self.outputs if name not in self.fixed]
        for name in late:
            self.fetch(name, int(self.device[name]), self.late_shapes[name], self.types[name])
        if late:
            self.wait()
        return {name: self.host[name] for name in self.outputs}


def _output_allocator(lane: _NamedLane) -> trt.IOutputAllocator:
    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        @override
        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return lane.on_device(tensor_name, size)

        # From 10 on TensorRT calls this one; the stream needs no care, for each lane has one only.
        @override
        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return lane.on_device(tensor_name, size)

        @override
        def notify_shape(self, tensor_name: str, shape: Iterable[int]) -> None:
            lane.late_shapes[tensor_name] = tuple(shape)

    return Allocator()


class _BindingsEngine(Protocol):
    """What an engine of 8.4 has, and one of 10 has not; from the documentation of 8.4."""

    num_bindings: int

    def get_binding_name(self, index: int) -> str: ...
    def get_binding_dtype(self, index: int) -> trt.DataType: ...
    def get_binding_shape(self, index: int) -> Iterable[int]: ...
    def binding_is_input(self, index: int) -> bool: ...


class _BindingsContext(Protocol):
    """The same for an execution context."""

    def set_binding_shape(self, binding: int, shape: Shape) -> bool: ...
    def get_binding_shape(self, binding: int) -> Iterable[int]: ...
    def execute_async_v2(self, bindings: list[int], stream_handle: int) -> bool: ...


class _IndexedLane(_Lane):
    """Bindings by index (8.4), where every output has a fixed size."""

    def __init__(self, cuda: Any, engine: trt.ICudaEngine, log: Log) -> None:
        super().__init__(cuda, engine, log)
        self.bound = cast(_BindingsEngine, engine)
        self.bound_context = cast(_BindingsContext, self.context)
        count = self.bound.num_bindings
        self.names = [self.bound.get_binding_name(index) for index in range(count)]
        self.types = [trt.nptype(self.bound.get_binding_dtype(index)) for index in range(count)]
        self.taken = [index for index in range(count) if self.bound.binding_is_input(index)]
        self.output_names = [name for index, name in enumerate(self.names) if index not in self.taken]

    def wanted(self) -> dict[str, tuple[Any, Shape]]:
        return {self.names[i]: (self.types[i], tuple(self.bound.get_binding_shape(i))) for i in self.taken}

    def start(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        given = checked_feeds("the engine", self.wanted(), inputs)
        bindings = [0] * len(self.names)
        for index in self.taken:
            array = given[self.names[index]]
            self.require(
                self.bound_context.set_binding_shape(index, array.shape), f"setting the shape of {self.names[index]}"
            )
            bindings[index] = self.send(self.names[index], array)
        outputs = [index for index in range(len(self.names)) if index not in self.taken]
        shapes_of = {index: tuple(self.bound_context.get_binding_shape(index)) for index in outputs}
        for index, shape in shapes_of.items():
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(self.types[index]).itemsize
            bindings[index] = self.on_device(self.names[index], size)
        self.execute(lambda: self.bound_context.execute_async_v2(bindings=bindings, stream_handle=self.stream.handle))
        for index, shape in shapes_of.items():
            self.fetch(self.names[index], bindings[index], shape, self.types[index])

    def finish(self) -> Arrays:
        self.wait()
        return {name: self.host[name] for name in self.output_names}
