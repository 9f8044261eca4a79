"""From opset 16 on, RoiAlign shifts by half a pixel itself; mmcv must not do it a second time."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="RoIAlign's symbolic says which pixel convention it means instead of shifting the boxes itself.",
    symptom="at opset 16 and later, every RoiAlign output differs: the features are sampled half a cell off",
    cause=(
        "mmcv's symbolic was written for opset 10, whose RoiAlign has no half-pixel shift: it subtracts half a feature "
        "cell from the boxes. Opset 16 gave the operator coordinate_transformation_mode, with half_pixel as its "
        "default, so the shift happens twice."
    ),
    replacements=[
        Replacement(
            "mmcv.ops.roi_align:RoIAlignFunction.symbolic",
            edits=(
                Edit(
                    """
                    if aligned:
                        # rois -= 0.5/spatial_scale
                        aligned_offset = g.op(
                            'Constant',
                            value_t=torch.tensor([0.5 / spatial_scale],
                                                 dtype=torch.float32))
                        rois = sub(g, rois, aligned_offset)
                    """,
                    "",
                ),
                Edit(
                    """
                    sampling_ratio_i=max(0, sampling_ratio),
                    mode_s=pool_mode)
                    """,
                    """
                    sampling_ratio_i=max(0, sampling_ratio),
                    coordinate_transformation_mode_s='half_pixel' if aligned else 'output_half_pixel',
                    mode_s=pool_mode)
                    """,
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
