"""The digest of the code that decides a result: what it covers, and what changes it."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

import tood.models  # noqa: F401 - registers what configurations name as tood.*
from tood.study import code_digest as module
from tood.study.code_digest import code_digest, config_files, training_code, training_files
from tood.study.declarations import load_runs
from tood.study.paths import CONFIGS, PACKAGE

# The digest

MODULE = '''"""What it does."""
# A comment

LIMIT = 3


class Thing:
    """A thing."""

    def double(self, x):
        """Twice x."""
        return 2 * x  # twice
'''
SAME = {
    "a comment": lambda text: text.replace("# twice", "# two times"),
    "no comment": lambda text: text.replace("# A comment\n", ""),
    "other docstrings": lambda text: text.replace("Twice x.", "x + x.\n\n        At length."),
    "no docstring of the module": lambda text: text.replace('"""What it does."""\n', ""),
    "no docstring of the class": lambda text: text.replace('    """A thing."""\n', ""),
    "formatting": lambda text: text.replace("2 * x", "(2\n            *x)").replace("\n\n\n", "\n"),
}
DIFFERENT = {
    "a constant": lambda text: text.replace("LIMIT = 3", "LIMIT = 4"),
    "the type of a constant": lambda text: text.replace("LIMIT = 3", "LIMIT = 3.0"),
    "an operation": lambda text: text.replace("2 * x", "2 + x"),
    "a default": lambda text: text.replace("self, x", "self, x=1"),
    "a statement less": lambda text: text.replace("LIMIT = 3", ""),
    "a string that is no docstring": lambda text: text.replace("LIMIT = 3", 'LIMIT = "3"'),
}


@pytest.fixture
def digest_of(tmp_path):
    folders = count()

    def digest(text: str, name: str = "module.py") -> str:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        (folder / name).write_text(text)
        return code_digest([folder / name])

    return digest


def test_digest_is_twelve_digits_whatever_the_folder(digest_of):
    assert re.fullmatch("[0-9a-f]{12}", digest_of(MODULE))
    assert digest_of(MODULE) == digest_of(MODULE)
    assert digest_of(MODULE) != digest_of(MODULE, "other.py")


@pytest.mark.parametrize("change", SAME)
def test_prose_does_not_change_the_digest(digest_of, change):
    assert SAME[change](MODULE) != MODULE
    assert digest_of(SAME[change](MODULE)) == digest_of(MODULE)


@pytest.mark.parametrize("change", DIFFERENT)
def test_meaning_changes_the_digest(digest_of, change):
    assert DIFFERENT[change](MODULE) != MODULE
    assert digest_of(DIFFERENT[change](MODULE)) != digest_of(MODULE)


# Every kind of node that a later Python gave more fields, or might.
SYNTAX = """
from a import b as c
@d
class E(F, metaclass=G):
    x: int = None
    async def f(self, a, /, b=1, *c, d, e=(), **g) -> "T":
        async with h as i: await j
        return f"{a!r:>{b}}" f"{c=}" "d", [*e], {**g, 1: ...}, lambda: (yield)
def k():
    try: pass
    except* L as m: raise M from None
    match n:
        case {"o": [1, *_], **p} | Q(r=2) if s: del t
"""


def grown(node: object, value: object) -> object:
    """A copy of a syntax tree as of a Python whose nodes have one more field, all but constants."""
    if isinstance(node, list):
        return [grown(item, value) for item in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Constant):  # of which no Python yet changed the fields; empty ones mean something
        return node
    kind = type(type(node).__name__, (type(node),), {"_fields": (*node._fields, "novelty")})
    fields = {name: grown(field, value) for name, field in ast.iter_fields(node)}
    return kind(**fields, novelty=value)


def with_empty_formats(tree: ast.AST) -> ast.AST:
    """The tree with empty texts in formatted strings, of which Python 3.12 has some and 3.11 none."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            node.values = [part for value in node.values for part in (value, ast.Constant(""))]
    return tree


@pytest.fixture
def digest_as(digest_of, monkeypatch):
    """Digest of SYNTAX if its tree is changed by a function, as another Python might have parsed it."""

    def digest(change) -> str:
        parsed = []

        def parse(source: str) -> ast.AST:
            parsed.append(source)
            return change(ast.parse(source))

        with monkeypatch.context() as patch:
            other = SimpleNamespace(**vars(ast) | {"parse": parse})
            patch.setattr(module, "ast", other)  # not pytest's own
            found = digest_of(text := f"{SYNTAX}# A text that was not parsed before: {change}\n")
        assert parsed == [text]
        return found

    return digest


OTHER_PYTHONS = {
    "a field that is a list": lambda tree: grown(tree, []),  # 3.12: `type_params`
    "a field that may be absent": lambda tree: grown(tree, None),  # 3.13: `default_value`
    "formats that end in nothing": with_empty_formats,
}


@pytest.mark.parametrize("change", OTHER_PYTHONS.values(), ids=OTHER_PYTHONS)
def test_the_digest_is_the_same_under_other_pythons(digest_of, digest_as, change):
    """Where their syntax trees differ in what old syntax does not use, as `ast.dump` would show."""
    assert ast.dump(change(ast.parse(SYNTAX))) != ast.dump(ast.parse(SYNTAX))
    assert digest_as(change) == digest_of(SYNTAX)


def test_new_syntax_changes_the_digest(digest_of, digest_as):
    """A field that an older Python lacks counts where it holds something."""
    assert digest_as(lambda tree: grown(tree, [ast.Constant(1)])) != digest_of(SYNTAX)


# Which files


def changed(package: Path, name: str, text: str = "\nLIMIT = 3\n") -> None:
    path = package / name
    path.write_text(path.read_text() + text)


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of `tood`, to change."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(PACKAGE, tmp_path / "tood", ignore=ignored)


def of_tood(package: Path) -> str:
    return code_digest(training_files("tood.py", {}, package))


@pytest.mark.parametrize(
    "name",
    [
        *("analysis/maps.py", "study/tables.py", "study/status.py", "cli.py", "runtime/locks.py"),
        *("evaluation/detection.py", "models/baselines/paa.py", "models/tood/plug_in.py"),
    ],
)
def test_what_does_not_train_a_run_leaves_its_digest(package, name):
    before = of_tood(package)
    changed(package, name)
    assert of_tood(package) == before


@pytest.mark.parametrize(
    "name",
    [
        *("engine/trainer.py", "engine/gradient.py", "data/loading.py"),
        *("models/tood/tood_head.py", "models/tood/losses.py", "models/tood/t_head.py"),
        "models/common/dense_prediction.py",
    ],
)
def test_what_trains_a_run_changes_its_digest(package, name):
    before = of_tood(package)
    changed(package, name, "# A comment\n")
    assert of_tood(package) == before
    changed(package, name)
    assert of_tood(package) != before


def test_a_new_method_leaves_the_digests_of_the_others(package):
    before = of_tood(package)
    (package / "models/baselines/new.py").write_text(
        "from tood.models.common.registry import MODELS\n\n"
        "@MODELS.register_module()\nclass NewHead:\n    pass\n"
    )
    assert of_tood(package) == before
    named = training_files("tood.py", {"model.bbox_head.type": "tood.NewHead"}, package)
    assert package / "models/baselines/new.py" in named


def test_runs_of_different_methods_differ():
    assert training_code("tood.py", {}) != training_code("atss.py", {})


def test_every_head_that_a_run_names_is_among_its_files():
    """The file of the class that the configuration builds, found by importing it."""
    for run in load_runs().values():
        if not run.implemented:
            continue
        config = Config.fromfile(CONFIGS / run.config)
        config.merge_from_dict(run.options)
        files = training_files(run.config, run.options)
        for kind in (config.model.type, config.model.bbox_head.type):
            defined = Path(inspect.getfile(MODELS.get(kind)))
            if kind.startswith("tood."):
                assert defined in files, run.id


def test_of_all_that_a_training_imports_only_rooms_that_decide_nothing_are_left_out():
    program = (
        "import sys, tood.engine.trainer, tood.engine.config, tood.data.loading\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] == 'tood': print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines() if line.startswith(str(PACKAGE))}
    runs = [run for run in load_runs().values() if run.implemented]
    covered = {path for run in runs for path in training_files(run.config, run.options)}
    left_out = {
        path.relative_to(PACKAGE).parts[0] for path in imported - covered if path.name != "__init__.py"
    }
    assert left_out <= {"runtime", "study"}


def test_a_configuration_brings_all_it_builds_on():
    files = [path.name for path in config_files(CONFIGS / "tal.py")]
    assert files == ["tal.py", "tood.py", "r50_fpn.py"]


def test_bases_may_be_several(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text('_base_ = ["b.py", "sub/c.py"]\nx = 1\n')
    (tmp_path / "b.py").write_text("y = 1\n")
    (tmp_path / "sub" / "c.py").write_text("_base_ = '../b.py'\n")
    names = [path.resolve().relative_to(tmp_path).as_posix() for path in config_files(tmp_path / "a.py")]
    assert names == ["a.py", "b.py", "sub/c.py", "b.py"]
