"""See inside a PyTorch model while it runs: module calls in order with shapes, and the calls of single functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["FunctionCall", "ModuleCall", "recorded_functions", "shapes_of", "trace_modules"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module. ``inputs`` and ``outputs`` are its positional arguments and result, detached copies."""

    order: int
    name: str
    kind: str
    inputs: Any = field(repr=False)
    outputs: Any = field(repr=False)

    @property
    def input_shapes(self) -> list[Shape]:
        return shapes_of(self.inputs)

    @property
    def output_shapes(self) -> list[Shape]:
        return shapes_of(self.outputs)


@dataclass(frozen=True)
class FunctionCall:
    """One call of a recorded function: what went in and what came out, detached copies."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


def _copy(value: Any) -> Any:
    """Detach and clone every tensor in nested lists, tuples and dictionaries; leave everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value) if type(value) in (list, tuple) else value
    return value


def shapes_of(value: Any) -> list[Shape]:
    """The shapes of all tensors in a nested structure, in order."""
    if isinstance(value, torch.Tensor):
        return [tuple(value.shape)]
    if isinstance(value, dict):
        return [shape for item in value.values() for shape in shapes_of(item)]
    if isinstance(value, (list, tuple)):
        return [shape for item in value for shape in shapes_of(item)]
    return []


def trace_modules(model: nn.Module, names: Collection[str], run: Callable[[], Any]) -> tuple[list[ModuleCall], Any]:
    """Call ``run`` and record every call of the named submodules, in the order in which the calls finish.

    Returns the calls and what ``run`` returned. The hooks are gone afterwards, whatever happens.

    Raises:
        KeyError: the model has no submodule of that name.
    """
    modules = dict(model.named_modules())
    missing = sorted(set(names) - set(modules))
    if missing:
        raise KeyError(f"the model has no submodule {missing[0]!r}")
    calls: list[ModuleCall] = []

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            calls.append(ModuleCall(len(calls), name, type(module).__name__, _copy(inputs), _copy(outputs)))

        return hook

    handles = [modules[name].register_forward_hook(recorder(name)) for name in names]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    return calls, result


@contextlib.contextmanager
def recorded_functions(*places: tuple[Any, str]) -> Iterator[dict[str, list[FunctionCall]]]:
    """Record the calls of functions or methods while the context lasts.

    Each place is an object or module and the attribute by which its callers look the function up; the yielded
    dictionary has a list of calls for each attribute name. The originals are put back afterwards.

    Raises:
        AttributeError: no such attribute.
        ValueError: two places have the same attribute name.
    """
    names = [name for _, name in places]
    if len(set(names)) < len(names):
        raise ValueError("two recorded functions have the same name")
    calls: dict[str, list[FunctionCall]] = {name: [] for name in names}

    def wrap(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def recording(*args: Any, **kwargs: Any) -> Any:
            taken = _copy(args), _copy(kwargs)  # before the call, which may write into its arguments
            result = original(*args, **kwargs)
            calls[name].append(FunctionCall(*taken, _copy(result)))
            return result

        return recording

    with contextlib.ExitStack() as stack:
        for owner, name in places:
            # A method found on the class must not stay behind on the instance.
            own = name in vars(owner)
            original = getattr(owner, name)
            setattr(owner, name, wrap(original, name))
            if own:
                stack.callback(setattr, owner, name, original)
            else:
                stack.callback(delattr, owner, name)
        yield calls
