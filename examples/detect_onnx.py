"""Detections by a file of `tood export --nms`: `python detect_onnx.py MODEL.onnx IMAGE [LEAST SCORE]`."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

model, photo, *least = sys.argv[1:]
about = json.loads(Path(model).with_suffix(".json").read_text())
image = cv2.imread(photo)  # [H, W, 3] BGR
height, width = image.shape[:2]
factor = min(about["longer_side"] / max(height, width), about["shorter_side"] / min(height, width))
size = int(width * factor + 0.5), int(height * factor + 0.5)
resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)

step = about["multiple_of"]
padded = np.zeros((-(-size[1] // step) * step, -(-size[0] // step) * step, 3), np.uint8)
padded[: size[1], : size[0]] = resized
given = {"images": padded.transpose(2, 0, 1)[None], "sizes": np.array([size[::-1]], np.int64)}

session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
boxes, scores, labels = session.run(None, given)
boxes[0] /= np.array([size[0] / width, size[1] / height] * 2)
for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
    if score > float(least[0] if least else 0.3):
        print(about["classes"][label], round(float(score), 2), box.round().tolist())
