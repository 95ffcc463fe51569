"""The study that several files of tests look at: the call that makes it, and what was counted before it."""

TRAINED = ("atss_af", "tood_af")
OPTIONS = ("--config", "runs=atss_af,tood_af", "val_images=6", "name=tiny")
CALL = ("--cores", "2", *OPTIONS, "iterations=3")
# Counted once for all studies, hence here as an earlier one left it; numbers that only this file has.
COMPLEXITY = """run,head_params_m,params_m,head_gflops,gflops
atss_af,11.25,12.25,13.25,14.25
tal,21.25,22.25,23.25,24.25
tood_af,31.25,32.25,33.25,34.25
"""
