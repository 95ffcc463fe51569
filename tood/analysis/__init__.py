"""Analysis of the trained detectors: alignment statistics, box counts, maps."""
