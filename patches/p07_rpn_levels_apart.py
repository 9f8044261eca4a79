"""The exported RPN suppresses boxes within their pyramid level only, as inference does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def move_apart(boxes: Tensor, group_ids: Tensor) -> Tensor:
    """Shift boxes so that no two of different groups overlap.

    boxes: (B, N, 4) xyxy, coordinates >= 0. group_ids: (1, N, 1) or (B, N, 1) integers.

    The distance is one more than the picture's largest coordinate: the very numbers that mmcv's ``batched_nms``
    computes (and torchvision's before it), so that float32 rounds alike in both and the same boxes survive. Boxes of
    negative coordinates could reach into the group below; mmdet clips its boxes to the picture first.
    """
    distance = boxes.amax(dim=(1, 2), keepdim=True) + 1
    return boxes + group_ids.to(boxes) * distance


PATCH = Patch(
    __name__,
    summary="The exported RPN runs its non-maximum suppression within each pyramid level.",
    symptom="ONNX Runtime's detections are not PyTorch's; the first tensor that differs is the RPN's NonMaxSuppression",
    cause=(
        "mmdet's export puts the boxes of all five levels into one NonMaxSuppression (its own comment says so), so a "
        "box of one level suppresses its twin on another. Inference runs batched_nms, with the level as the class."
    ),
    replacements=[
        Replacement(
            "mmdet.models.dense_heads.rpn_head:RPNHead.onnx_export",
            edits=(
                Edit(
                    """
                    # Different from the normal forward doing NMS level by level,
                    # we do NMS across all levels when exporting ONNX.
                    """,
                    """
                    # The level of each box, as the boxes were concatenated: every level gives its best nms_pre.
                    boxes_of_level = [int(pred[0].numel()) // 4 for pred in bbox_preds]
                    if cfg.get('nms_pre', -1) > 0:
                        boxes_of_level = [min(n, cfg.nms_pre) for n in boxes_of_level]
                    level_ids = torch.cat([
                        torch.full((1, n, 1), level, device=batch_bboxes.device)
                        for level, n in enumerate(boxes_of_level)], dim=1)
                    """,
                ),
                Edit(
                    "cfg.max_per_img)",
                    """
                    cfg.max_per_img,
                    group_ids=level_ids)
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.core.export.onnx_helper:add_dummy_nms_for_onnx",
            edits=(
                Edit(
                    "labels=None):",
                    "labels=None,\n                           group_ids=None):",
                ),
                Edit(
                    """
                    selected_indices = DummyONNXNMSop.apply(boxes, scores,
                    """,
                    """
                    boxes_for_nms = boxes
                    if group_ids is not None:
                        assert pre_top_k <= 0, 'group_ids are those of all boxes'
                        from patches.p07_rpn_levels_apart import move_apart
                        boxes_for_nms = move_apart(boxes, group_ids)
                    selected_indices = DummyONNXNMSop.apply(boxes_for_nms, scores,
                    """,
                ),
            ),
            also=("mmdet.core.export:add_dummy_nms_for_onnx",),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
