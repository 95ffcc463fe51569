"""The names of Table 6's metrics, as the table has them. No torch here: tables are written without it."""

# By the keys of `alignment_variants.json`, in the order of the table
METRIC_OF = {
    "pcc": "PCC (top-50)",
    "iou": "IoU (top-10)",
    "correct": "#Correct boxes",
    "redundant": "#Redundant boxes",
    "error": "#Error boxes",
}
