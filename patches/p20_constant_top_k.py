"""The number of candidates that TopK keeps is a constant of the graph."""

from __future__ import annotations

from typing import Any

from patches._base import Patch, Replacement


def get_k_for_topk(k: Any, size: Any) -> int:
    """k if 0 < k < size, else -1 (keep all), as inference decides it; both are numbers of the traced input size."""
    k, size = int(k), int(size)
    return k if 0 < k < size else -1


PATCH = Patch(
    __name__,
    summary="TopK's K is a constant, whatever the batch.",
    symptom="every TopK of the dynamic graph has a computed K; TensorRT wants K as a constant (before 8.6 it must be)",
    cause=(
        "mmdet keeps K as a tensor, min(k, number of boxes), for inputs of dynamic height and width. With a dynamic "
        "batch nothing folds it, although the number of boxes does not depend on the batch."
    ),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:get_k_for_topk",
            new=get_k_for_topk,
            also=("mmdet.core.export:get_k_for_topk",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
