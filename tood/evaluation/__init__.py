"""Trained and released detectors on a dataset: detections, COCO AP."""
