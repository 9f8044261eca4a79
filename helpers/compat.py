"""Make ``import mmcv`` possible where torchvision is absent or broken.

mmcv 1.x imports torchvision at the top of ``mmcv.runner.checkpoint`` only to list the model zoo of torchvision. A
CPU-only torch from PyPI has no matching torchvision: its extension fails to load and the import raises RuntimeError.
Where torchvision imports, it is used; where it does not, an empty stand-in takes its place, and nothing else changes.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import sys
import types

__all__ = ["STAND_IN_NOTE", "ensure_torchvision", "torchvision_is_stand_in"]

STAND_IN_NOTE = "stand-in of this course (no torchvision can be imported here; mmcv only wants its names)"


def torchvision_is_stand_in() -> bool:
    """Whether the ``torchvision`` in use is this module's empty stand-in."""
    module = sys.modules.get("torchvision")
    return module is not None and getattr(module, "__doc__", None) == STAND_IN_NOTE


def ensure_torchvision() -> None:
    """Import torchvision, or put an empty module in its place if it cannot be imported. Idempotent.

    Call it before the first import of mmcv; every module of this course that imports mmcv does.
    """
    # mmcv imports it too, and where there is CUDA and no GPU every chapter began with its word on that.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if "torchvision" in sys.modules:
        return
    try:
        if importlib.util.find_spec("torchvision") is not None:
            import torchvision  # noqa: F401

            return
    except (ImportError, RuntimeError, AttributeError):
        # A half-imported package would shadow the stand-in.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    for name in ("torchvision", "torchvision.models"):
        module = types.ModuleType(name, STAND_IN_NOTE)
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]
    sys.modules["torchvision"].__version__ = "0.0.0"  # type: ignore[attr-defined]
