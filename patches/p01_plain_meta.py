"""mmdet's example input carries plain lists and tensors in its meta data, no numpy array."""

from patches._base import Edit, Patch, Replacement

PATCH = Patch(
    __name__,
    summary="The example input's meta data holds a list and a tensor where it held numpy arrays.",
    symptom=(
        "RuntimeError: Only tuples, lists and Variables are supported as JIT inputs/outputs. ... "
        "received an input of unsupported type: numpy.ndarray"
    ),
    cause=(
        "The exporter hands every argument of forward to the tracer, also those that functools.partial filled in, and "
        "the tracer accepts tensors, tuples and lists only. scale_factor and show_img are numpy arrays."
    ),
    replacements=[
        Replacement(
            "mmdet.core.export.pytorch2onnx:preprocess_example_input",
            edits=(
                Edit("np.ones(4, dtype=np.float32)", "np.ones(4, dtype=np.float32).tolist()"),
                Edit("'show_img': show_img,", "'show_img': torch.as_tensor(show_img),"),
            ),
            also=("mmdet.core.export:preprocess_example_input",),
        )
    ],
)
apply, revert = PATCH.apply, PATCH.revert
