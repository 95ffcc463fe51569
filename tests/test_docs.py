"""README.md and docs/ against the code: commands parse, keys exist, examples run, links lead somewhere."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tood.cli import build_parser
from tood.study.declarations import load_runs, select_runs
from tood.study.options import INCOMPARABLE, Study, parse_options
from tood.study.plan import Plan
from tood.workflow.stages import describe_study

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "results/README.md"]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language; an empty language means those without any."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: Path, *programs: str) -> list[list[str]]:
    """Every call of these programs in a page, in a block or in a line of text, as words."""
    text = page.read_text()
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", "").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose)]
    calls = [shlex.split(call, comments=True) for line in lines for call in line.split("&&")]
    return [words for words in calls if words and words[0] in programs]


CALLS = [(page, words) for page in PAGES for words in commands(page, "tood", "snakemake", "make")]


@pytest.mark.parametrize(
    ("page", "words"), CALLS, ids=[f"{page.name}: {' '.join(words)}"[:80] for page, words in CALLS]
)
def test_commands_are_those_of_the_programs(page, words):
    program, *arguments = words
    if program == "tood" and len(arguments) == 1:  # a subcommand named, perhaps without what it needs
        with pytest.raises(SystemExit, match=r"^0$"):
            build_parser(arguments).parse_args([*arguments, "--help"])
    elif program == "tood" and arguments:
        build_parser(arguments).parse_args(arguments)
    elif program == "snakemake" and "--config" in arguments:
        after = arguments[arguments.index("--config") + 1 :]
        pairs = [word for word in after if re.fullmatch(r"[a-z_]+=.*", word)]
        assert {pair.split("=")[0] for pair in pairs} <= set(Study.model_fields)
        Plan(parse_options(pair for pair in pairs if not pair.split("=")[1].isupper()))  # NAME, PATH
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        makefile = (REPOSITORY / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_commands_are_found():
    programs = [words[0] for page, words in CALLS if page == README]
    assert {"tood", "snakemake", "make"} <= set(programs)
    assert ["snakemake", "--cores", "all", "--config", "scale=mini"] in [words for _, words in CALLS]


def test_configuration_has_every_key():
    text = (REPOSITORY / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `(\w+)`( \*)? \|", text.split("## Scales")[0], re.MULTILINE)
    assert [key for key, _ in rows] == list(Study.model_fields)
    # Those whose numbers are not the scale's, so that the study needs a name of its own
    assert [key for key, starred in rows if starred] == list(INCOMPARABLE)


def test_examples_in_the_readme_run_and_print_what_it_says():
    text = README.read_text()
    (example,) = blocks(text, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() in blocks(text, "")


def test_numbers_of_runs():
    text = README.read_text()
    assert f"The paper's {len(select_runs(None, load_runs()))} runs: Tables 1 to 6" in text
    assert describe_study(Plan({}), {}, []) in text


def test_the_paper_is_cited_as_in_the_citation_file():
    paper = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["preferred-citation"]
    (entry,) = blocks(README.read_text(), "bibtex")
    names = " and ".join(f"{name['family-names']}, {name['given-names']}" for name in paper["authors"])
    for part in (f"{{{names}}}", paper["title"], paper["collection-title"], str(paper["year"])):
        assert part in entry.replace("{TOOD}", "TOOD")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, link
