"""TOOD: Task-aligned One-stage Object Detection, its compared methods and their analysis.

Nothing here knows of Snakemake. Modules that touch torch are imported where they are needed, so that
reading the experiment declarations costs no torch import.
"""
