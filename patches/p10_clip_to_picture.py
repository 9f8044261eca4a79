"""Boxes are clipped to the picture that lies in the input, not to the input's padding; its size becomes an input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patches._base import Edit, Patch, Replacement

if TYPE_CHECKING:
    from torch import Tensor


def dynamic_clip_for_onnx(
    x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, max_shape: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clip coordinates, (B, N, C) each, to 0 and the sides of the picture that their row is of.

    max_shape: (B, 2) heights and widths in pixels of the input, or (2,) for all rows alike. Minimum and maximum are
    exact, as inference's clamp is; dividing by the size and multiplying again, as before, is not.
    """
    import torch

    height, width = (max_shape[..., side].to(x1).reshape(-1, 1, 1) for side in (0, 1))
    x1, y1, x2, y2 = (torch.clamp(value, min=0) for value in (x1, y1, x2, y2))
    return torch.minimum(x1, width), torch.minimum(y1, height), torch.minimum(x2, width), torch.minimum(y2, height)


PATCH = Patch(
    __name__,
    summary="The graph takes each picture's size, image_size (batch, 2), and clips proposals and detections to it.",
    symptom="right on pictures that fill the input; on others boxes reach into the padding: other scores and masks",
    cause=(
        "Inference clips boxes to img_shape, the resized picture, and drops proposals that have no area left. mmdet's "
        "export clips to the shape of the tensor, padding and all, and drops none: one tensor holds pictures of many "
        "shapes, and nothing tells the graph which."
    ),
    replacements=[
        Replacement(
            "mmdet.core.export.onnx_helper:dynamic_clip_for_onnx",
            new=dynamic_clip_for_onnx,
            also=("mmdet.core.export:dynamic_clip_for_onnx",),
        ),
        Replacement(
            "mmdet.models.dense_heads.base_dense_head:BaseDenseHead.onnx_export",
            edits=(
                Edit(
                    "img_shape = img_metas[0]['img_shape_for_onnx']",
                    "img_shape = img_metas[0]['image_size']",
                ),
            ),
        ),
        Replacement(
            "mmdet.models.dense_heads.rpn_head:RPNHead.onnx_export",
            edits=(
                Edit(
                    "cfg = copy.deepcopy(self.test_cfg)",
                    """
                    cfg = copy.deepcopy(self.test_cfg)
                    if cfg.min_bbox_size >= 0:
                        # A score of 0 passes no threshold of the suppression.
                        sides = batch_bboxes[..., 2:] - batch_bboxes[..., :2]
                        large = torch.minimum(sides[..., :1], sides[..., 1:]) > cfg.min_bbox_size
                        batch_scores = torch.where(large, batch_scores, torch.zeros_like(batch_scores))
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.standard_roi_head:StandardRoIHead.bbox_onnx_export",
            edits=(
                Edit(
                    "rois, cls_score, bbox_pred, img_shapes, cfg=rcnn_test_cfg)",
                    """
                    rois, cls_score, bbox_pred, img_shapes, cfg=rcnn_test_cfg,
                    image_size=img_metas[0]['image_size'])
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.cascade_roi_head:CascadeRoIHead.onnx_export",
            edits=(
                Edit(
                    "rois[..., 1:], bbox_pred, max_shape=max_shape)",
                    "rois[..., 1:], bbox_pred, max_shape=img_metas[0]['image_size'])",
                ),
                Edit(
                    "rois, cls_score, bbox_pred, max_shape, cfg=rcnn_test_cfg)",
                    """
                    rois, cls_score, bbox_pred, max_shape, cfg=rcnn_test_cfg,
                    image_size=img_metas[0]['image_size'])
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.bbox_heads.bbox_head:BBoxHead.onnx_export",
            edits=(
                Edit(
                    "rois[..., 1:], bbox_pred, max_shape=img_shape)",
                    "rois[..., 1:], bbox_pred, max_shape=kwargs['image_size'])",
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
