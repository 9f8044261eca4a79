"""From a config and a checkpoint to a detector; pictures in, detections out; AP.

Modules that only hold data (preprocess, detections, evaluation, drawing) work without mmdet; the others import it.
Imports nothing of the house but the ground floor.
"""
