"""mmdet's wrapper of exported models drops the rows that only fill the output up to its fixed length."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="mmdet's wrapper for exported models drops the rows that fill the fixed-size output.",
    symptom="the exported model always reports 100 objects, those past the last real one with score 0",
    cause=(
        "The graph's outputs have a fixed length; rows past the last detection hold a zero score and a box that means "
        "nothing. DeployBaseDetector passes them on as detections."
    ),
    replacements=[
        Replacement(
            "mmdet.core.export.model_wrappers:DeployBaseDetector.forward",
            edits=(
                Edit(
                    "dets, labels = batch_dets[i], batch_labels[i]",
                    """
                    dets, labels = batch_dets[i], batch_labels[i]
                    found = dets[:, 4] > 0
                    dets, labels = dets[found], labels[found]
                    """,
                ),
                Edit("masks = batch_masks[i]", "masks = batch_masks[i][found]"),
            ),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
