"""`tood padding`: how much of training images is padding, at the sizes of COCO's."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command has none."""


def run(options: argparse.Namespace) -> int:
    """Write the shares, and print them."""
    from tood.analysis.padding import write_padding
    from tood.study.paths import PADDING

    print(write_padding().to_string(index=False))
    print(f"written to {PADDING}")
    return 0
