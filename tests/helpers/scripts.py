"""Scripts of the workflow as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


def script(name: str) -> ModuleType:
    """The script `workflow/scripts/{name}.py`, whose `main` is not called."""
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
