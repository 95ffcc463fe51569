"""Start one step of the workflow: python workflow/step.py NAME --option value ..."""

import sys

from tood.workflow.steps import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
