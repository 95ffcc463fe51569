"""The figures: score and IoU maps, positives, views of Table 6, sweeps."""
