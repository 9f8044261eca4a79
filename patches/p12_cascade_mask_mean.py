"""A cascade's masks are the mean of its stages' probabilities, as inference takes it, not of their logits."""

from patches._base import Edit, Patch, Replacement
from patches.p11_no_ghosts import PATCH as NO_GHOSTS

PATCH = Patch(
    __name__,
    summary="Cascade Mask R-CNN's export averages mask probabilities over the stages instead of logits.",
    symptom="every mask of an exported Cascade Mask R-CNN has another border than PyTorch's, silently",
    cause=(
        "Inference averages after the sigmoid (merge_aug_masks), mmdet's export before it. Where the stages disagree, "
        "one that is certain outvotes two that are not in the one and cannot in the other."
    ),
    after=(NO_GHOSTS,),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.cascade_roi_head:CascadeRoIHead.onnx_export",
            edits=(
                Edit("aug_masks.append(mask_pred)", "aug_masks.append(mask_pred.sigmoid())"),
                Edit("self.test_cfg, max_shape)", "self.test_cfg, max_shape, probabilities=True)"),
            ),
        ),
        Replacement(
            "mmdet.models.roi_heads.mask_heads.fcn_mask_head:FCNMaskHead.onnx_export",
            edits=(
                Edit(
                    "mask_pred = mask_pred.sigmoid()",
                    """
                    if not kwargs.get('probabilities'):
                        mask_pred = mask_pred.sigmoid()
                    """,
                ),
            ),
        ),
    ],
)
apply, revert = PATCH.apply, PATCH.revert
