"""The graph returns the mask head's 28 x 28 probabilities; they are pasted where the picture is."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The masks output is (batch, 100, 28, 28) probabilities of the detected class instead of pasted masks.",
    symptom="389 MB of masks for each picture, in pixels of the input: resized to the picture's own they lose accuracy",
    cause=(
        "mmdet pastes inside the graph, at the size of the padded input, for it does not know the picture's. Inference "
        "pastes the 28 x 28 values straight into the picture's own pixels."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.mask_heads.fcn_mask_head:FCNMaskHead.onnx_export",
            edits=(
                Edit(
                    """
                    masks, _ = _do_paste_mask(
                        mask_pred, bboxes, img_h, img_w, skip_empty=False)
                    """,
                    """
                    return mask_pred[:, 0]
                    masks, _ = _do_paste_mask(
                        mask_pred, bboxes, img_h, img_w, skip_empty=False)
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.standard_roi_head:StandardRoIHead.mask_onnx_export",
            edits=(
                Edit(
                    "max_shape = img_metas[0]['img_shape_for_onnx']",
                    """
                    # The rows and columns of the masks that are returned.
                    max_shape = [int(size) for size in mask_pred.shape[-2:]]
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.standard_roi_head:StandardRoIHead.onnx_export",
            edits=(
                Edit(
                    "return det_bboxes, det_labels, segm_results",
                    """
                    # Rows that are no detection have no mask.
                    found = det_bboxes[..., 4:, None] > 0
                    segm_results = torch.where(found, segm_results, torch.zeros_like(segm_results))
                    return det_bboxes, det_labels, segm_results
                    """,
                ),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.cascade_roi_head:CascadeRoIHead.onnx_export",
            edits=(
                Edit(
                    """
                    segm_results = segm_results.reshape(batch_size,
                                                        det_bboxes.shape[1],
                                                        max_shape[0], max_shape[1])
                    return det_bboxes, det_labels, segm_results
                    """,
                    """
                    segm_results = segm_results.reshape(batch_size, det_bboxes.shape[1],
                                                        *(int(size) for size in mask_pred.shape[-2:]))
                    found = det_bboxes[..., 4:, None] > 0
                    segm_results = torch.where(found, segm_results, torch.zeros_like(segm_results))
                    return det_bboxes, det_labels, segm_results
                    """,
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
