"""The course's own patches, on the libraries that they are for."""

from __future__ import annotations

import importlib
import sys

import pytest

import patches
from helpers.compat import ensure_torchvision

ensure_torchvision()
# Load, before anything is compared, whatever could hold a copy of a patched function.
for module in ("mmdet.apis", "mmdet.core.export.model_wrappers", "mmcv.onnx.symbolic", "mmcv.video"):
    importlib.import_module(module)


def library_state() -> dict[str, object]:
    """Every attribute of mmcv's and mmdet's modules and of the classes in them, by identity."""
    state: dict[str, object] = {}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.split(".")[0] not in ("mmcv", "mmdet"):
            continue
        for name, value in list(vars(module).items()):
            state[f"{module_name}:{name}"] = value
            if isinstance(value, type) and value.__module__ == module_name:
                state |= {f"{module_name}:{name}.{key}": member for key, member in vars(value).items()}
    return state


@pytest.mark.parametrize("name", patches.names())
def test_apply_reaches_every_place_and_revert_restores_the_library(name):
    patch = patches.load(name)
    before = library_state()
    with patches.applied(*(needed.name for needed in patch.builds_on)):
        originals = {id(vars_of(r.target)): r.target for r in patch.replacements}
        patch.apply()
        # A module that imported the function by name and was forgotten would go on calling the old one.
        left = {key: originals[id(value)] for key, value in library_state().items() if id(value) in originals}
        patch.revert()
    assert left == {}
    after = library_state()
    assert before.keys() == after.keys()
    assert [key for key, value in before.items() if after[key] is not value] == []


def vars_of(target: str) -> object:
    module, _, path = target.partition(":")
    owner: object = importlib.import_module(module)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return vars(owner)[attribute]


@pytest.mark.parametrize("name", patches.names())
def test_the_diff_shows_a_change(name):
    for _, before, after in patches.load(name).sources():
        assert before != after
    assert 'class="diff_' in patches.load(name).diff_html()
