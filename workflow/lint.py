"""`snakemake --lint`, without its demand that each rule name a conda environment or a container.

Every job runs in the environment that Snakemake itself runs in, which `make env` builds. A rule that named
another one would be wrong.
"""

import re
import subprocess
import sys

NOT_WANTED = "Specify a conda environment or container for each rule."


def main() -> None:
    call = [sys.executable, "-m", "snakemake", "--lint"]
    outcome = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    titles = re.findall(r"^    \* (.*):$", outcome.stdout, re.MULTILINE)
    if set(titles) != {NOT_WANTED}:  # also where it fails before it has looked at a rule
        sys.exit(outcome.stdout)


if __name__ == "__main__":
    main()
