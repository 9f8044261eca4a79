"""A RoI's scale is computed without its area, which half precision cannot hold."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="map_roi_levels takes the roots of width and height before it multiplies them.",
    symptom="in half precision every RoI of more than 256 x 256 px goes to the coarsest level, silently",
    cause=(
        "sqrt(w * h) has the area as an intermediate result: beyond 65504 it is infinite in half precision, and the "
        "clamp that follows turns infinity into the last level. mmdet's own border to that level is 448 x 448 px."
    ),
    replacements=[
        Replacement(
            "mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor:SingleRoIExtractor.map_roi_levels",
            edits=(
                Edit(
                    """
                    scale = torch.sqrt(
                        (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
                    """,
                    "scale = torch.sqrt(rois[:, 3] - rois[:, 1]) * torch.sqrt(rois[:, 4] - rois[:, 2])",
                ),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
