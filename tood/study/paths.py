"""Where the repository keeps what."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "tood"
EXPERIMENTS = REPOSITORY / "experiments"
CONFIGS = EXPERIMENTS / "configs"
