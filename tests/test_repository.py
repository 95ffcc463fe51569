"""Workflows, hooks, forms and pages against the repository: what they name is there, and pins agree."""

import re
import shlex
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tood.cli import main

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "results/README.md"])
GITHUB = REPOSITORY / ".github"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB.glob("workflows/*.yml")}
ACTIONS = {path: yaml.safe_load(path.read_text()) for path in GITHUB.glob("actions/*/action.yml")}
FORMS = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml")}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
MAKEFILE = (REPOSITORY / "Makefile").read_text()

# Addresses of package indexes, and options that name one
INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|anaconda\.org|pytorch\.org/whl|:/{2}\S+/simple\b|(?:index-url|find-links)\W+\w+://"
)
# Folders of a person or of a machine, from the root on; not the end of a longer path
MACHINE = re.compile(r"(?<![\w.~$})\]*-])/(?:work|root|home|Users)/\w")


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def tokens(page: Path) -> Iterator[Token]:
    """Every token of a Markdown page, those inside of paragraphs too."""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        yield token
        yield from token.children or []


def calls(lines: Iterable[str], *programs: str) -> list[list[str]]:
    """The calls of these programs, as words without assignments before them."""
    found = []
    for line in lines:
        for command in re.sub(r"\$\{\{.*?\}\}", "VALUE", line.replace("\\\n", " ")).split("&&"):
            if re.match(rf"\s*(\w+=\S+\s+)*({'|'.join(map(re.escape, programs))})(\s|$)", command):
                words = shlex.split(command, comments=True)
                found.append(words[next(i for i, word in enumerate(words) if word in programs) :])
    return found


def calls_in_page(page: Path, *programs: str) -> list[list[str]]:
    blocks = [token for token in tokens(page) if token.type == "fence" and token.info == "sh"]
    lines = [line for token in blocks for line in token.content.replace("\\\n", " ").splitlines()]
    return calls(
        [*lines, *(token.content for token in tokens(page) if token.type == "code_inline")], *programs
    )


def steps(workflow: str) -> list[dict]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def calls_in_workflow(workflow: str, *programs: str) -> list[list[str]]:
    lines = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    return calls(lines, *programs)


def exact_pins(requirements: Iterable[str]) -> dict[str, str]:
    parsed = map(Requirement, requirements)
    return {r.name: str(r.specifier)[2:] for r in parsed if str(r.specifier).startswith("==")}


DEVELOPMENT = exact_pins(PROJECT["dependency-groups"]["dev"])

# Commands


MAKE_CALLS = [(name(page), words) for page in PAGES for words in calls_in_page(page, "make")]
MAKE_CALLS += [(flow, words) for flow in WORKFLOWS for words in calls_in_workflow(flow, "make")]


@pytest.mark.parametrize(("place", "words"), MAKE_CALLS, ids=[f"{p}: {' '.join(w)}" for p, w in MAKE_CALLS])
def test_make_has_the_target_and_the_variables(place, words):
    for word in words[1:]:
        variable, assigned, _ = word.partition("=")
        pattern = rf"^{variable} \??=" if assigned else rf"^{word}:"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), f"{place}: the Makefile has no {word}"


def test_ci_calls_what_a_contributor_calls():
    targets = {flow: [words[1:2] for words in calls_in_workflow(flow, "make")] for flow in WORKFLOWS}
    assert targets["ci"] == [["lint"], ["test"], ["site"], ["PYTHON=python3.12"]]
    assert targets["nightly"] == [["test-slow"], ["env"]]


@pytest.mark.parametrize("place", [*WORKFLOWS, "CONTRIBUTING.md"])
def test_python_files_of_commands_exist(place):
    programs = ("python", ".venv/bin/python", "pytest")
    in_workflow = place in WORKFLOWS
    found = (
        calls_in_workflow(place, *programs) if in_workflow else calls_in_page(REPOSITORY / place, *programs)
    )
    files = [word for words in found for word in words if word.endswith(".py")]
    assert files or place == "ci"
    assert [file for file in files if not (REPOSITORY / file).is_file()] == []


@pytest.mark.parametrize("place", [REPOSITORY / "CONTRIBUTING.md", *GITHUB.rglob("*.md"), *FORMS], ids=str)
def test_tood_has_the_commands_and_their_options(place, capsys):
    if isinstance(place, Path):
        found = calls_in_page(place, "tood")
    else:
        found = calls(re.findall(r"`([^`]+)`", yaml.safe_dump(FORMS[place], width=10_000)), "tood")
        assert found or place == "method"
    for words in filter(lambda words: len(words) > 1, found):  # not the package's name
        with pytest.raises(SystemExit) as end:
            main([words[1], "--help"])
        assert end.value.code == 0
        options = capsys.readouterr().out
        assert all(word in options for word in words[2:] if word.startswith("--")), words


# Workflows


@pytest.mark.parametrize("flow", WORKFLOWS)
def test_workflows_may_read_only_end_in_time_and_use_official_actions(flow):
    workflow = WORKFLOWS[flow]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] < 360  # where GitHub's own limit is
        assert "permissions" not in job
    used = [step["uses"] for step in steps(flow) if "uses" in step]
    used += [step["uses"] for action in ACTIONS.values() for step in action["runs"]["steps"]]
    for action in used:
        local = action.startswith("./") and (REPOSITORY / action / "action.yml") in ACTIONS
        assert local or re.fullmatch(r"actions/[a-z-]+@v\d+", action), action


def test_the_cache_belongs_to_the_pins():
    (cache,) = (
        step for action in ACTIONS.values() for step in action["runs"]["steps"] if "cache" in step["uses"]
    )
    assert "hashFiles('requirements.txt')" in cache["with"]["key"]


# Versions


def test_versions_of_python_are_those_that_the_project_allows():
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    supported = {f"3.{minor}" for minor in range(100) if allowed.contains(f"3.{minor}.0")}
    assert set(WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]) == supported
    low, high = map(int, re.search(r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", MAKEFILE).groups())
    assert {f"3.{minor}" for minor in range(low, high)} == supported
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{low}"
    named = [path.read_text() for path in (*GITHUB.rglob("*.yml"), REPOSITORY / "environment.yml")]
    found = re.findall(r"python[:=]? ?\"?(3\.\d+)", "\n".join(named))
    assert found
    assert set(found) <= supported


def test_hooks_are_the_pinned_tools_of_the_environment():
    repositories = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    tools = {hook["entry"].split()[0] for hook in hooks}
    assert tools == {"ruff", "snakefmt", "codespell"}
    assert tools <= set(DEVELOPMENT)
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]
    assert [tool for tool in tools if f"-m {tool}" not in lint] == []


def test_compiled_requirements_have_the_versions_of_the_project():
    text = (REPOSITORY / "requirements.txt").read_text()
    compiled = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))
    declared = exact_pins(PROJECT["project"]["dependencies"]) | DEVELOPMENT
    assert len(declared) > 20
    assert {package: compiled.get(package) for package in declared} == declared


# Forms


@pytest.mark.parametrize("form", FORMS)
def test_forms_have_what_github_wants_of_them(form):
    content = FORMS[form]
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert Counter(field["id"] for field in fields).most_common(1)[0][1] == 1
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    for path in re.findall(r"\b(?:docs/)?\w+\.md\b", yaml.safe_dump(content, width=10_000)):
        assert (REPOSITORY / path).is_file(), path


@pytest.mark.parametrize(
    ("form", "required"),
    [
        ("bug", {"command", "log", "doctor"}),
        ("number", {"cell", "run", "study"}),
        ("method", {"paper", "difference"}),
    ],
)
def test_forms_ask_for_what_an_answer_needs(form, required):
    fields = FORMS[form]["body"]
    assert {field["id"] for field in fields if field.get("validations", {}).get("required")} >= required


# Pages


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found = Counter()
    slugs = set()
    heading = False
    for token in tokens(page):
        if token.type == "inline" and heading:
            text = "".join(child.content for child in token.children)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            slugs.add(f"{slug}-{found[slug]}" if found[slug] else slug)
            found[slug] += 1
        heading = token.type == "heading_open"
    return slugs


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    links = [token.attrGet("href") or token.attrGet("src") for token in tokens(page)]
    for link in filter(None, links):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(REPOSITORY), f"{link} leads out of the repository"
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# Files


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"git does not list the files: {listed.stderr.strip()}")
    paths = [REPOSITORY / path for path in listed.stdout.split("\0") if path]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_package_index_or_a_folder_of_a_machine():
    named = [
        f"{name(path)}: {line.strip()[:150]}"
        for path in committed()
        for line in path.read_bytes().decode(errors="ignore").splitlines()
        if INDEX.search(line) or MACHINE.search(line)
    ]
    assert named == []


@pytest.mark.parametrize(
    ("pattern", "parts", "found"),
    [
        (INDEX, ("https:", "", "img.shields.io", "{0}", "v", "torch"), False),
        (INDEX, ("https:", "", "{0}.org", "project", "torch"), True),
        (INDEX, ("https:", "", "mirror.example", "simple", "torch"), True),
        (INDEX, ("--index-url=https:", "", "mirror.example"), True),
        (INDEX, ("--no-emit-index-url --output-file requirements.txt",), False),
        (INDEX, ("https:", "", "download.pytorch.org", "models", "resnet50.pth"), False),
        (INDEX, ("https:", "", "download.pytorch.org", "whl", "cpu"), True),
        (MACHINE, ("cd ", "home", "ada", "coco"), True),
        (MACHINE, ('"', "root", "data"), True),
        (MACHINE, ("file:", "", "", "Users", "ada"), True),
        (MACHINE, ("results", "work", "smoke"), False),
        (MACHINE, ("$HOME", "work", "smoke"), False),
        (MACHINE, ("{folder}", "work", "smoke"), False),
        (MACHINE, ("", "work", ""), False),  # a pattern of .gitignore
        (MACHINE, ("data_root=", "data", "coco"), False),
    ],
)
def test_the_patterns_find_what_they_should(pattern, parts, found):
    line = "/".join(parts).format("pypi", folder="{folder}")  # in parts, as this file is searched too
    assert bool(pattern.search(line)) == found
