"""The site of `make site`: copies the pages and what they link to into one folder, and builds it with mkdocs.

    python docs/make_site.py [FOLDER]    # default: site

Pages link to one another as on GitHub, from README.md on. mkdocs wants all of them below one folder, so the
copy has the layout of the repository. The reference of the Python interface and a page of each notebook are
made here.
"""

import json
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Of the reference: what docs/api.md uses
MODULES = {
    "Detectors": "tood.evaluation.detector",
    "Images": "tood.data.images.read_image",
    "Dense predictions": "tood.models.common.dense_level.DenseLevel",
    "Exports": "tood.evaluation.exporting",
    "Results as data frames": "tood.report.frames",
    "Contrasts of runs": "tood.report.contrasts",
    "Detections by class": "tood.analysis.per_class",
    "Two studies": "tood.report.two_studies",
    "Plans": "tood.study.plan.Plan",
    "Equations 1 to 4": "tood.models.tood.task_decomposition",
    "Equations 5 and 6": "tood.models.tood.spatial_alignment",
    "Equation 9": "tood.models.tood.task_alignment",
    "Equations 10 and 11": "tood.models.tood.losses",
}
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def pages() -> list[Path]:
    """Every page, relative to the repository."""
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "results/README.md"]
    return sorted(page.relative_to(REPOSITORY) for page in found)


def copy(folder: Path) -> None:
    """Copy the pages, and the files of the repository that they link to, and write the reference."""
    for page in pages():
        _copy(page, folder)
        for link in _LINK.findall((REPOSITORY / page).read_text(encoding="utf-8")):
            linked = (REPOSITORY / page.parent / link).resolve()
            if "://" not in link and linked.is_file():
                _copy(linked.relative_to(REPOSITORY), folder)
    (folder / "docs/reference.md").write_text(reference(), encoding="utf-8")
    for notebook in notebooks():
        _copy(notebook, folder)
        page = (folder / notebook).with_suffix(".md")
        page.write_text(notebook_page(REPOSITORY / notebook), encoding="utf-8")


def notebooks() -> list[Path]:
    """Every notebook, relative to the repository."""
    return sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("examples/*.ipynb"))


def notebook_page(path: Path) -> str:
    """The cells of a notebook as Markdown: text as it is, code in blocks, without outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        if len(parts) == 1:  # below the title
            parts.append(f"This page shows the cells of [{path.name}]({path.name}).")
    return "\n\n".join(parts) + "\n"


def reference() -> str:
    """The page of the Python interface, which mkdocstrings fills."""
    head = "# Reference\n\nWhat [docs/api.md](api.md) uses, from its docstrings."
    return "\n\n".join([head, *(f"## {title}\n\n::: {name}" for title, name in MODULES.items())]) + "\n"


def build(folder: Path) -> None:
    """Build the site; a warning is an error."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    with tempfile.TemporaryDirectory() as copied:
        copy(Path(copied))
        config = load_config(
            str(REPOSITORY / "mkdocs.yml"), docs_dir=copied, site_dir=str(folder.resolve()), strict=True
        )
        config.plugins.on_startup(command="build", dirty=False)
        build_site(config)


def _copy(file: Path, folder: Path) -> None:
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(REPOSITORY / file, target)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s  %(message)s")
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    build(target)
    print(f"written to {target}/index.html; its search needs a server: python -m http.server -d {target}")
