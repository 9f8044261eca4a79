"""mmcv's imread passes a tensor on as an array, as it does with an array."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="mmcv.imread accepts a picture that is a tensor already.",
    symptom='TypeError: "img" must be a numpy array or a str or a pathlib.Path object',
    cause="p01_plain_meta made the picture to draw on (show_img) a tensor; show_result reads it with mmcv.imread.",
    replacements=[
        Replacement(
            "mmcv.image.io:imread",
            edits=(
                Edit(
                    """
                    if isinstance(img_or_path, np.ndarray):
                        return img_or_path
                    """,
                    """
                    if isinstance(img_or_path, np.ndarray):
                        return img_or_path
                    elif hasattr(img_or_path, 'detach'):
                        return img_or_path.detach().cpu().numpy()
                    """,
                ),
            ),
            also=("mmcv.image:imread", "mmcv:imread", "mmcv.visualization.image:imread", "mmcv.video.optflow:imread"),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
