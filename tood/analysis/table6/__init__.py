"""Table 6: how well classification and localisation of a trained run agree."""
