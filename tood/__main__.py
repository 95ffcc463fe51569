"""`python -m tood` is the command `tood`."""

import sys

from tood.cli import main

if __name__ == "__main__":
    sys.exit(main())
