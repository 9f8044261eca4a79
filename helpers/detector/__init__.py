"""From a config and a checkpoint to a detector; pictures in, detections out; AP.

Modules that only hold data (preprocess, detections, evaluation, drawing) work without mmdet; the others import it. Not
here: anything that knows of ONNX.

Uses no other folder.
"""
