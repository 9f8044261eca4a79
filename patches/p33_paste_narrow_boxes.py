"""Pasting a mask never divides by the width or height of a box that has none."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="Mask pasting divides by a box's width and height, but by no less than 1/16 px.",
    symptom="in half precision (and bfloat16) a thin box's sides round to one number: inf and NaN in the mask grid",
    cause=(
        "(x - x0) / (x1 - x0) divides by zero. Inference looks for the infinities and clears them; the export leaves "
        "that out. With 1/16 px the grid stays below 2 * 1216 * 16 = 38912, inside half precision's range, and points "
        "outside of -1 to 1 sample nothing, as they should."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.mask_heads.fcn_mask_head:_do_paste_mask",
            edits=(
                Edit(
                    "img_y = (img_y - y0) / (y1 - y0) * 2 - 1",
                    "img_y = (img_y - y0) / (y1 - y0).clamp(min=1 / 16) * 2 - 1",
                ),
                Edit(
                    "img_x = (img_x - x0) / (x1 - x0) * 2 - 1",
                    "img_x = (img_x - x0) / (x1 - x0).clamp(min=1 / 16) * 2 - 1",
                ),
            ),
            also=("mmdet.models.detectors.panoptic_two_stage_segmentor:_do_paste_mask",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
