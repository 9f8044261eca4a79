"""Rows that hold no proposal never become detections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor

#: Logit of the background in a row that holds no proposal: exp(-1e4) is 0 in every precision, and half holds 1e4.
CERTAIN = 1e4


def background_where_empty(logits: Tensor, proposals: Tensor) -> Tensor:
    """Class logits (B * N, C + 1), background last, of proposals (B, N, 5), score last: a row whose proposal has no
    score above 0 is background with certainty."""
    import torch

    background = torch.zeros(1, int(logits.shape[-1]), device=logits.device)
    background[0, -1] = CERTAIN
    return torch.where(proposals[..., 4].reshape(-1, 1) > 0, logits, background)


_BACKGROUND = Edit(
    "bbox_pred = bbox_results['bbox_pred']",
    """
    bbox_pred = bbox_results['bbox_pred']
    from patches.p11_no_ghosts import background_where_empty
    cls_score = background_where_empty(cls_score, proposals)
    """,
)
_HEADS = "mmdet.models.roi_heads"

PATCH = Patch(
    __name__,
    summary="Rows of the proposals that hold none are background to the box head.",
    symptom="where the RPN keeps few boxes, detections at [0, 0, 0, 0] push true ones out, silently",
    cause=(
        "The graph's proposals have a fixed length, and rows past the last one are zeros. The box head classifies the "
        "features at that corner like any other: 62 of 100 detections of a picture with 58 proposals came from there. "
        "Inference has no such rows."
    ),
    replacements=[
        Replacement(f"{_HEADS}.standard_roi_head:StandardRoIHead.bbox_onnx_export", edits=(_BACKGROUND,)),
        Replacement(f"{_HEADS}.cascade_roi_head:CascadeRoIHead.onnx_export", edits=(_BACKGROUND,)),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
