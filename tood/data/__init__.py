"""The generated dataset and the checks of any COCO-layout dataset before training."""
