"""The RoI head's reshapes leave the batch open and know every other size, up to the pasted masks."""

from patches._base import Edit, Patch, Replacement

_HEAD = "mmdet.models.roi_heads.standard_roi_head:StandardRoIHead"
PATCH = Patch(
    __name__,
    summary="The box and mask heads return to (batch, RoIs, ...) with the batch inferred.",
    symptom="proposals, classes and mask size are computed dimensions in the dynamic graph, masks (batch, ?, ?, ?)",
    cause="reshape(batch_size, number, size) reads all three from Shape nodes once the batch is dynamic.",
    replacements=[
        Replacement(
            f"{_HEAD}.bbox_onnx_export",
            edits=(
                Edit("num_proposals_per_img = rois.shape[1]", "num_proposals_per_img = int(rois.shape[1])"),
                Edit(
                    "rois = rois.reshape(batch_size, num_proposals_per_img, rois.size(-1))",
                    "rois = rois.reshape(-1, num_proposals_per_img, 5)",
                ),
                Edit(
                    """
                    cls_score = cls_score.reshape(batch_size, num_proposals_per_img,
                                                  cls_score.size(-1))
                    """,
                    "cls_score = cls_score.reshape(-1, num_proposals_per_img, int(cls_score.size(-1)))",
                ),
                Edit(
                    """
                    bbox_pred = bbox_pred.reshape(batch_size, num_proposals_per_img,
                                                  bbox_pred.size(-1))
                    """,
                    "bbox_pred = bbox_pred.reshape(-1, num_proposals_per_img, int(bbox_pred.size(-1)))",
                ),
            ),
        ),
        Replacement(
            f"{_HEAD}.mask_onnx_export",
            edits=(
                Edit("num_det = det_bboxes.shape[1]", "num_det = int(det_bboxes.shape[1])"),
                Edit(
                    """
                    segm_results = segm_results.reshape(batch_size, num_det, max_shape[0],
                                                        max_shape[1])
                    """,
                    "segm_results = segm_results.reshape(-1, num_det, int(max_shape[0]), int(max_shape[1]))",
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.bbox_heads.bbox_head:BBoxHead.onnx_export",
            edits=(
                Edit("batch_size = scores.shape[0]", "n_boxes = int(scores.shape[1]) * self.num_classes"),
                Edit("labels = labels.reshape(batch_size, -1)", "labels = labels.reshape(-1, n_boxes)"),
                Edit("scores = scores.reshape(batch_size, -1)", "scores = scores.reshape(-1, n_boxes)"),
                Edit("bboxes = bboxes.reshape(batch_size, -1, 4)", "bboxes = bboxes.reshape(-1, n_boxes, 4)"),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.mask_heads.fcn_mask_head:FCNMaskHead.onnx_export",
            edits=(Edit("img_h, img_w = ori_shape[:2]", "img_h, img_w = int(ori_shape[0]), int(ori_shape[1])"),),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
