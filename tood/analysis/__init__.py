"""What the trained detectors are analysed for: alignment statistics, box counts, maps."""
