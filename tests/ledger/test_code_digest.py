"""The digest of the code that decides a result: what it covers, and what changes it."""

import ast
import functools
import inspect
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.gradients import make_model, whole_batch
from helpers.operators import no_rounding
from mmdet.models.detectors import SingleStageDetector
from mmengine.config import Config

from tood.engine.config import build_model, resolve
from tood.engine.replicas import batch_gradient
from tood.ledger import code_digest as module
from tood.ledger.code_digest import code_digest, config_files, evaluation_code, training_code, training_files
from tood.models import FreeAnchorHead, ParallelHead, RetinaHead, THead
from tood.study.declarations import load_runs
from tood.study.paths import ALIGNMENT, AP, CONFIGS, EXPERIMENTS, PACKAGE
from tood.study.plan import Plan
from tood.study.source_files import config_words, strings_of

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

RUNS = load_runs()
CATEGORIES = [{"id": number, "name": str(number)} for number in range(1, 4)]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A copy of the package and its configurations, of which digests are taken from now on."""
    for folder in (PACKAGE, EXPERIMENTS):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "tood")
    monkeypatch.setattr(module, "CONFIGS", tmp_path / "experiments" / "configs")
    return tmp_path


def edit(path: Path, text: str = "\nLIMIT = 3\n") -> None:
    assert path.is_file()
    path.write_text(path.read_text() + text)


def digests() -> dict[str, str]:
    """Of every run's training."""
    return {run.id: training_code(run.config, run.options) for run in RUNS.values()}


def stale_after(repository: Path, name: str) -> set[str]:
    """The runs whose digest an edit of one file changes."""
    before = digests()
    edit(repository / name)
    return {run for run, found in digests().items() if found != before[run]}


@functools.cache
def the_model(run: str) -> SingleStageDetector:
    return build_model(resolve(Plan({}).settings(run), CATEGORIES, None))


def uses(*classes: type) -> set[str]:
    """The runs with such a module in their model, whatever their configuration says."""
    return {run for run in RUNS if any(isinstance(part, classes) for part in the_model(run).modules())}


def test_the_copy_has_the_digests_of_the_original(repository, monkeypatch):
    found = digests()
    monkeypatch.undo()
    assert found == digests()
    assert len(set(found.values())) > 10


def test_a_new_method_leaves_the_digests_of_the_others(repository):
    before = digests()
    new = repository / "tood/models/baselines/new.py"
    new.write_text(
        "from tood.models.baselines.paa import PAAHead\nfrom tood.models.common.registry import MODELS\n\n\n"
        "@MODELS.register_module()\nclass NewHead(PAAHead):\n    pass\n"
    )
    edit(repository / "tood/models/__init__.py", "from tood.models.baselines.new import NewHead\n")
    assert digests() == before
    named = training_files("tood.py", {"model.bbox_head.type": "tood.NewHead"})
    assert {new, new.with_name("paa.py")} <= set(named)


def test_every_file_of_what_trains_any_run_counts_for_all(repository):
    engine = [path for path in (repository / "tood/engine").rglob("*.py") if path.name != "__init__.py"]
    assert len(engine) > 2
    decisive = {*engine, repository / "tood/data/loading.py"}
    assert all(decisive <= set(training_files(run.config, run.options)) for run in RUNS.values())
    before, own = digests(), {path: code_digest([path]) for path in decisive}
    for path in decisive:
        edit(path)
        assert code_digest([path]) != own[path], path
    after = digests()
    assert all(after[run] != before[run] for run in RUNS)


def test_what_does_not_train_counts_for_none(repository):
    before = digests()
    edited = [repository / "tood" / name for name in ("cli.py", "heads.py", "__init__.py")]
    of_data = ("synthetic", "painting", "shapes", "validation", "coco")
    edited += [repository / f"tood/data/{name}.py" for name in of_data]
    for room in ("study", "analysis", "evaluation", "runtime"):
        edited += (repository / "tood" / room).rglob("*.py")
    assert len(edited) > 30
    for path in edited:
        edit(path)
    assert digests() == before


def test_a_head_counts_for_its_run_and_those_that_build_on_it(repository):
    found = stale_after(repository, "tood/models/baselines/retinanet.py")
    named = {"retinanet", "noisy_anchor", "pisa", "retinanet_r101", "noisy_anchor_r101"}
    assert found == named == uses(RetinaHead)


def test_a_parent_head_counts_for_the_method_on_top(repository):
    found = stale_after(repository, "tood/models/baselines/freeanchor.py")
    assert found == {"freeanchor", "mal", "mal_r101"} == uses(FreeAnchorHead)


def test_the_t_head_counts_for_the_runs_that_have_one(repository):
    """And for the parallel head of TOODHead, which has its tower from the same file."""
    found = stale_after(repository, "tood/models/tood/t_head.py")
    assert found == uses(THead, ParallelHead)
    assert uses(THead) < found
    assert not {"atss_af", "retinanet", "fcos"} & found


def test_a_configuration_counts_for_those_that_build_on_it(repository):
    found = stale_after(repository, "experiments/configs/retinanet.py")
    large = {"retinanet_r101", "noisy_anchor_r101", "mal_r101"}
    assert found == {"retinanet", "noisy_anchor", "freeanchor", "mal", "pisa"} | large


@pytest.mark.parametrize("method", ["sapd", "gflv2", "vfnet", "iqdet"])
def test_a_method_of_table_5_counts_for_its_own_rows(repository, method):
    found = stale_after(repository, f"tood/models/baselines/{method}.py")
    assert found == {run for run in RUNS if run.startswith(f"{method}_")}
    assert found


def test_prose_formatting_and_annotations_count_for_none(repository):
    before = digests()
    for path in (repository / "tood").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = ast.Name("Other")
                if ast.get_docstring(node):
                    node.body[0] = ast.Expr(ast.Constant("In other words."))
            elif isinstance(node, ast.arg):
                node.annotation = None
        path.write_text("# Other prose\n" + ast.unparse(ast.fix_missing_locations(tree)))  # and formatting
    assert digests() == before


# What measures


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("evaluation/detection.py", {AP, ALIGNMENT}),
        ("evaluation/trained_run.py", {AP, ALIGNMENT}),
        ("evaluation/evaluate.py", {AP, ALIGNMENT}),
        ("evaluation/released.py", set()),
        ("analysis/table6/columns.py", {ALIGNMENT}),
        ("analysis/table6/alignment.py", {ALIGNMENT}),
        ("analysis/table6/anchors.py", {ALIGNMENT}),
        ("analysis/table6/box_counts.py", {ALIGNMENT}),
        *(
            (f"analysis/{name}.py", set())
            for name in (
                *("figures/maps", "figures/views", "figures/sweeps", "figures/figure1", "figures/assignment"),
                *("table6/best_anchors", "complexity"),
            )
        ),
        *(
            (name, set())
            for name in ("engine/trainer.py", "models/tood/t_head.py", "report/tables.py", "cli.py")
        ),
    ],
)
def test_an_edit_of_what_measures_counts_for_what_it_measures(repository, name, changed):
    before = {result: evaluation_code(result) for result in (AP, ALIGNMENT)}
    edit(repository / "tood" / name)
    assert {result for result in before if evaluation_code(result) != before[result]} == changed


# Nothing is missed


@pytest.mark.parametrize("run", RUNS)
def test_every_class_of_a_built_model_is_in_the_files_of_its_run(run):
    """Found by building the model: its modules, and whatever objects they hold."""
    seen, classes = set(), set()
    waiting = list(the_model(run).modules())
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict | list | tuple):
            waiting += thing.values() if isinstance(thing, dict) else thing
        elif type(thing).__module__.split(".")[0] in ("tood", "mmdet"):
            classes |= {kind for kind in type(thing).__mro__ if kind.__module__.startswith("tood.")}
            waiting += vars(thing).values()
    files = training_files(RUNS[run].config, RUNS[run].options)
    defined = {Path(inspect.getfile(kind)) for kind in classes}
    assert defined
    assert defined <= set(files)


@pytest.mark.parametrize("run", ["atss_af", "tood_af", "mal", "noisy_anchor", "paa"])
def test_every_function_that_a_training_step_calls_is_in_the_files_of_its_run(run):
    """Watched while the loss of a batch is computed: functions have no class to be found by."""
    called = set()

    def watch(frame, event, argument) -> None:
        called.add(frame.f_code.co_filename)

    model = make_model(run, epoch=0)
    sys.setprofile(watch)
    try:
        with no_rounding():
            batch_gradient(model, whole_batch(4))
    finally:
        sys.setprofile(None)
    of_package = {Path(path) for path in called if path.startswith(str(PACKAGE))}
    decisive = {path for path in of_package if path.relative_to(PACKAGE).parts[0] not in ("runtime", "study")}
    assert len(decisive) > 1
    assert decisive <= set(training_files(RUNS[run].config, RUNS[run].options))


def test_of_all_that_a_training_imports_only_rooms_that_decide_nothing_are_left_out():
    program = (
        "import sys, tood.engine.trainer, tood.engine.config, tood.data.loading\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] == 'tood': print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines() if line.startswith(str(PACKAGE))}
    runs = [(run.config, run.options) for run in load_runs().values()]
    without_run = [(path.name, {}) for path in CONFIGS.glob("*.py")]  # some have none yet
    covered = {path for described in [*runs, *without_run] for path in training_files(*described)}
    # For a declaration of the study alone; what the data are is in their own digest.
    names = ("annotations", "input_sizes", "painting", "seen", "shapes", "synthetic", "validation")
    of_data = {PACKAGE / "data" / f"{name}.py" for name in names}
    left_out = {
        path.relative_to(PACKAGE).parts[0]
        for path in imported - covered - of_data
        if path.name != "__init__.py"
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


# What a configuration names


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.py")))
def test_a_merged_configuration_names_what_mmengine_makes_of_it(config):
    theirs = Config.fromfile(CONFIGS / config).to_dict()
    names = {word for word in config_words(CONFIGS / config) if word.startswith("tood.")}
    assert names == {word for word in strings_of(theirs) if word.startswith("tood.")} != set()


BASE = (
    'model = dict(head=dict(type="tood.Old", loss=dict(type="tood.OldLoss"), parts=[dict(type="tood.Part")]))'
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"Old", "OldLoss", "Part"}),
        ('model = dict(head=dict(type="tood.New"))', {"New", "OldLoss", "Part"}),
        ('model = {"head": {"type": "tood.New"}}', {"New", "OldLoss", "Part"}),
        ('model = dict(head=dict(_delete_=True, type="tood.New"))', {"New"}),
        ('model = dict(head=dict(_delete_=False, type="tood.New"))', {"New", "OldLoss", "Part"}),
        ('model = dict(head=dict(parts=[dict(type="tood.Other")]))', {"Old", "OldLoss", "Other"}),
        ('model = dict(head=dict(parts={"0": dict(size=1)}))', {"Old", "OldLoss", "Part"}),
        ('other = dict(x=-1 / 3, hook="tood.New")', {"Old", "OldLoss", "Part", "New"}),
        # What computes something is not merged: all its words count, and all of its bases.
        ('head = "tood.New"\nmodel = dict(head=dict(type=head))', {"New", "Old", "OldLoss", "Part"}),
        ('model = dict(**dict(head=dict(type="tood.New")))', {"New", "Old", "OldLoss", "Part"}),
        ('for _ in (1,):\n    model = dict(head=dict(type="tood.New"))', {"New", "Old", "OldLoss", "Part"}),
        ("import math", {"Old", "OldLoss", "Part"}),
    ],
)
def test_what_a_configuration_replaces_is_not_named(tmp_path, text, expected):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "config.py").write_text(f'"""Of tood.Prose."""\n_base_ = "base.py"\n{text}\n')
    words = config_words(tmp_path / "config.py")
    found = {word.removeprefix("tood.") for word in words if re.fullmatch(r"tood\.\w+", word)}
    assert found == expected


def test_custom_imports_count(repository):
    new = repository / "tood/models/baselines/new.py"
    new.write_text("def patch():\n    pass\n")
    config = repository / "experiments/configs/new.py"
    config.write_text('_base_ = "tood.py"\ncustom_imports = dict(imports=["tood.models.baselines.new"])\n')
    assert new in training_files("new.py", {})
    assert new not in training_files("tood.py", {})


def test_options_count(repository):
    anchors = repository / "tood/models/common/anchor_generators.py"
    assert anchors not in training_files("tood.py", {})
    changed = {"model.bbox_head": {"parts": [{"type": "tood.RoundedAnchorGenerator"}]}}
    assert anchors in training_files("tood.py", changed)
