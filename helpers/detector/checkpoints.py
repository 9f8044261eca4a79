"""Checkpoints as they are found: opened without running anything in them, and loaded with every key accounted for.

Training scripts wrap what they save in different ways: a ``state_dict`` or a ``model`` at the top, ``module.`` before
each name (parallel training), a second copy of the weights under ``ema_`` (mmcv's hook of that name; mmdet itself reads
the first copy), numpy scalars in the meta data, half precision. All of that is undone here. What is left must fit the
detector key by key.
"""

from __future__ import annotations

import ast
import inspect
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.compat import ensure_torchvision
from helpers.errors import CourseError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "CheckpointError",
    "disagreements",
    "load_state",
    "open_checkpoint",
    "recorded_config",
    "refuse_forced_trust",
    "weights_of",
]

# Keys of a model's config that change nothing in inference, or are not the checkpoint's to say (test_cfg).
_NOT_COMPARED = re.compile(
    r"(.*\.)?(init_cfg|pretrained|train_cfg|test_cfg|loss_\w+|frozen_stages|norm_eval|with_cp|requires_grad|"
    r"reg_decoded_bbox|drop_path_rate|convert_weights)"
)


class CheckpointError(CourseError):
    """A checkpoint is missing, damaged, not the published one, not loadable safely, or of another model."""


def refuse_forced_trust(trust: bool) -> None:
    """Nothing, or CheckpointError where torch has been told by a variable to run what checkpoints hold, and the caller
    has not."""
    if not trust and os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true"):
        raise CheckpointError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, under which torch runs the code in a checkpoint",
            "unset it, or pass trust=True if you trust who made the file",
        )


def open_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU. Only tensors and plain values are unpickled, and numpy's scalars,
    which mmdet 2.x writes into the meta data. ``trust`` lets the file run code; the default refuses.

    Raises:
        CheckpointError: no file, not whole, or it holds more than that.
    """
    import torch

    refuse_forced_trust(trust)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", "check the path, or check out the repository again")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        # torch's own words advise to switch the check off, and are pages long: they are not passed on.
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path} {f'holds more than tensors ({named[1]})' if named else 'is damaged'} and was not opened",
            "use a checkpoint of tensors only, or pass trust=True if you trust who made it",
        ) from None
    except Exception as error:  # whatever torch's readers stumble over in a damaged file
        raise CheckpointError(f"{path} is not a whole PyTorch checkpoint", "fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights", "name a checkpoint of this model")
    return content


def _numpy_scalars() -> list[Any]:
    """What the pickle of a numpy scalar names: a function that makes one number of bytes, and the number's type."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = (*np.typecodes["AllInteger"], *np.typecodes["Float"], "?")
    types: list[Any] = sorted({type(np.dtype(kind)) for kind in kinds}, key=lambda kind: kind.__name__)
    # numpy 1 and 2 have the function in modules of different names.
    return [np.dtype, *types, *((scalar, f"{module}.scalar") for module in _SCALAR_MODULES)]


_SCALAR_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


def weights_of(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint's content, by the names that the model has for them, floats in FP32."""
    import torch

    state: Any = content
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    found = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    while found and all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    # mmcv's hook writes dots as underscores there, so that these names are no parts of a model.
    found = {key: value for key, value in found.items() if not key.startswith("ema_")}
    return {key: value.float() if value.is_floating_point() else value for key, value in found.items()}


def load_state(detector: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load weights whose names and sizes must be the detector's. Counters of batches, which inference does not read,
    may be missing.

    Raises:
        CheckpointError: names how many keys are missing, unknown or of another size, and five of each.
    """
    own = detector.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]
    strange = [key for key in state if key not in own]
    other = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    words = [
        f"{len(keys)} {what} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for keys, what in ((missing, "missing"), (strange, "unexpected"), (other, "of another size"))
        if keys
    ]
    if words:
        raise CheckpointError(
            f"{source} does not have the weights of this config: of {len(own)} keys {'; '.join(words)}",
            "name a checkpoint of this model, or the config it was trained with",
        )
    detector.load_state_dict(dict(state), strict=False)


def recorded_config(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config that mmdet wrote into a checkpoint's meta data as Python text, read as data: nothing of it is run.
    None where there is none, or it is more than assignments of plain values.
    """
    meta = content.get("meta")
    text = meta.get("config") if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    found = {}
    try:
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                found[statement.targets[0].id] = ast.literal_eval(_Plain().visit(statement.value))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return found


class _Plain(ast.NodeTransformer):
    """``dict(a=1)`` as ``{"a": 1}``, which ast.literal_eval knows."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return ast.Dict(
                [ast.Constant(word.arg) if word.arg else None for word in node.keywords],
                [word.value for word in node.keywords],
            )
        return node


def disagreements(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """In what a checkpoint's recorded config disagrees with the given one, of what the network computes (the model,
    but for training and ``test_cfg``) and what its pictures must look like (normalisation, order of channels, resize),
    in words. The size of the pictures is left to the config.
    """
    from helpers.detector.pipeline import PipelineError, read_pipeline

    words = [
        f"model.{key} is {theirs!r} in the checkpoint and {ours!r} in the config"
        for key, theirs, ours in _different(recorded.get("model") or {}, given.get("model") or {})
    ]
    try:
        theirs, ours = read_pipeline(recorded), read_pipeline(given)
    except PipelineError:
        return words
    for name in ("mean", "std", "to_rgb", "keep_ratio"):
        if (a := getattr(theirs, name)) != (b := getattr(ours, name)):
            words.append(f"the test pipeline's {name} is {a} in the checkpoint and {b} in the config")
    return words


def _different(first: Any, second: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            path = f"{prefix}.{key}" if prefix else str(key)
            if _NOT_COMPARED.fullmatch(path):
                continue
            a, b = (side[key] if key in side else _default(side.get("type"), key) for side in (first, second))
            if _ABSENT not in (a, b):
                yield from _different(a, b, path)
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            yield from _different(a, b, f"{prefix}[{i}]")
    elif isinstance(first, (Mapping, list, tuple)) != isinstance(second, (Mapping, list, tuple)):
        # A cascade's settings may be written once for all stages: building and loading will tell.
        return
    elif first != second and [first, second] not in (["BN", "SyncBN"], ["SyncBN", "BN"]):
        yield prefix, first, second


_ABSENT: Any = object()


def _default(kind: Any, key: str) -> Any:
    """What a module of mmdet's takes where its config does not say."""
    ensure_torchvision()
    from mmdet.core.anchor.builder import PRIOR_GENERATORS
    from mmdet.core.bbox.builder import BBOX_CODERS
    from mmdet.models.builder import MODELS

    found = next(
        (registry.get(kind) for registry in (MODELS, PRIOR_GENERATORS, BBOX_CODERS) if registry.get(kind)), None
    )
    parameters = inspect.signature(found).parameters if found else {}
    default = parameters[key].default if key in parameters else inspect.Parameter.empty
    return _ABSENT if default is inspect.Parameter.empty else default
