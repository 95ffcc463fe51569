"""What a call prints, from the messages that Snakemake sends."""

import io
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.settings.enums import Quietness

from tood.runtime.files import write_json
from tood.study.paths import StudyPaths
from tood.study.plan import Training
from tood.workflow import terminal
from tood.workflow.screen import Screen
from tood.workflow.terminal import Terminal, take_over

STUDY = StudyPaths("tiny")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Call:
    """A call of the workflow as its logger sees it."""

    def __init__(self, stream: io.StringIO, dry: bool = False, quiet: bool = False) -> None:
        self.stream, self.now = stream, 1000.0
        self.terminal = Terminal(Screen(stream), dry, quiet)
        self.terminal.of(STUDY, [Training("tood_af", 0)])

    def send(self, event: str | None, text: str | None = "", level: int = logging.INFO, **content) -> None:
        record = logging.LogRecord("snakemake", level, "", 0, text, None, None)
        record.__dict__ |= {"event": event, "created": self.now, **content}
        self.terminal.handle(record)

    def plan(self, **jobs: int) -> None:
        self.send("run_info", "Job stats:", stats={**jobs, "total": sum(jobs.values())})

    def start(self, number: int, rule: str, reason: str = "Missing output files: a", **wildcards) -> Path:
        log = STUDY.logs / f"{rule}_{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        info = dict(rule_name=rule, wildcards=wildcards, log=[str(log)], reason=reason, shellcmd="python")
        self.send("job_info", f" Rule: {rule}", jobid=number, **info)
        return log

    def finish(self, number: int) -> None:
        self.send("job_finished", f"Finished jobid: {number}", job_id=number)
        self.send("progress", None, done=1, total=3)

    def fail(self, number: int, rule: str, log: Path, said: str = "", others: tuple[Path, ...] = ()) -> None:
        self.send(
            "error",
            f"RuleException:\nCalledProcessError in file x, line {number}",
            logging.ERROR,
            exception="RuleException",
        )
        logs = [str(path) for path in (log, *others)]
        self.send(
            "job_error", "Error in rule", logging.ERROR, jobid=number, rule_name=rule, log=logs, rule_msg=said
        )

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call():
    call = Call(io.StringIO())
    yield call
    call.terminal.close()


def test_a_run_is_one_line_with_its_result_and_the_time_of_both_jobs(call):
    call.plan(train=2, evaluate=2, tables=1)
    call.start(1, "train", run="tood_af", seed="0")
    call.now += 60
    call.finish(1)
    call.start(2, "evaluate", run="tood_af", seed="0")
    write_json(STUDY.run("tood_af", 0).ap, {"AP": 41.234, "digests": {}})
    call.now += 12
    call.finish(2)
    call.start(3, "tables")
    call.finish(3)
    assert [line.split() for line in call.lines] == [
        ["tood_af", "seed", "0", "AP", "41.2", "1:12", "1/2"],
        ["tables", "0:00"],
    ]


def test_on_a_cluster_each_end_and_each_submission_is_a_line(call):
    call.plan(train=1, evaluate=1)
    call.terminal.on_cluster = True
    call.start(1, "train", run="tood_af", seed="0")
    call.send(None, "Job 1 has been submitted with SLURM jobid 4711 (log: a.log).")
    write_json(STUDY.run("tood_af", 0).state, {"state": "done", "loss": 1.3861})
    call.finish(1)
    call.start(2, "tables")
    call.finish(2)
    assert [line.split() for line in call.lines] == [
        ["train", "tood_af", "seed", "0", "submitted:", "Slurm", "job", "4711"],
        ["train", "tood_af", "seed", "0", "loss", "1.386"],
        ["tables", "done"],
    ]


def test_trainings_are_counted_where_nothing_is_evaluated(call):
    call.plan(train=1)
    call.start(1, "train", run="tood_af", seed="0")
    call.finish(1)
    assert call.lines[0].split() == ["train", "tood_af", "seed", "0", "0:00", "1/1"]


def test_noise_is_left_out_and_the_rest_is_printed(call):
    call.send("workflow_started", "Workflow has started!")
    for text in ("Building DAG of jobs...", "Using shell: /usr/bin/bash", "Select jobs to execute...", None):
        call.send(None, text)
    call.send("shellcmd", "Shell command: python")
    call.send("resources_info", "Provided cores: 2")
    call.send(None, "Unlocked working directory.")
    call.send(None, "This Slurm: there is no `sacct`", logging.WARNING)
    assert call.lines == ["Unlocked working directory.", "This Slurm: there is no `sacct`"]


def test_a_note_of_a_job_that_succeeded_is_printed_once(call):
    for number in (1, 2):
        log = call.start(number, "check_data")
        log.write_text("check data  9/9 images\ndata: Training leaves out 1 of 9 annotations.\n")
        call.finish(number)
    assert call.lines.count("data: Training leaves out 1 of 9 annotations.") == 1
    assert not any("9/9" in line for line in call.lines)


def test_the_end_of_the_log_of_a_failed_job_is_the_last_that_is_printed(call):
    call.plan(train=2)
    log = call.start(1, "train", run="tood_af", seed="0")
    log.write_text(
        "\n".join(["first", *(f"line {number}" for number in range(20)), "train: the disk is full\n"])
    )
    call.fail(1, "train", log)
    call.send("error", "WorkflowError:\nAt least one job did not complete successfully.", logging.ERROR)
    call.send(None, "the report shows what is done")
    assert call.lines == [
        f"train tood_af seed 0  failed, see {log}",
        "the report shows what is done",
    ]
    call.terminal.close()
    assert call.lines[2:4] == ["", "train tood_af seed 0 failed"]
    assert call.lines[4] == f"{log} ends with:"
    assert call.lines[-1] == "    train: the disk is full"
    assert len(call.lines) == 5 + 15


def test_a_failed_job_that_succeeds_at_last_is_not_shown_at_the_end(call):
    log = call.start(1, "train", run="tood_af", seed="0")
    slurm = Path("slurm.log")
    slurm.write_text("killed by the out-of-memory handler\n")
    said = (
        "SLURM-job '7' failed, SLURM status is:\n'OUT_OF_MEMORY'. Detailed failure reason unavailable (so)."
    )
    call.fail(1, "train", log, said, (slurm,))
    call.send(None, "Trying to restart job 1.")
    assert [line.split(maxsplit=4)[4] for line in call.lines] == [
        f"failed, see {log} (SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY')",
        "is started again",
    ]
    call.start(1, "train", run="tood_af", seed="0")
    call.fail(1, "train", log, others=(slurm,))
    call.send(None, "Trying to restart job 1.")
    call.start(1, "train", run="tood_af", seed="0")
    call.finish(1)
    before = call.lines
    call.terminal.close()
    assert call.lines == before


def test_jobs_that_the_user_stops_have_not_failed(call):
    log = call.start(1, "train", run="tood_af", seed="0")
    log.write_text("KeyboardInterrupt\n")
    call.send(None, "Terminating processes on user request, this might take some time.")
    call.fail(1, "train", log)
    call.terminal.close()
    assert call.lines[0].startswith("Stopping the jobs. The same command continues")
    assert call.lines[1:] == ["train tood_af seed 0  stopped"]


def test_of_a_clusters_log_only_what_the_cluster_did_is_shown_before_the_jobs_own(call):
    log, slurm = call.start(1, "tables"), Path("slurm.log")
    slurm.write_text("slurmstepd: error: Detected 1 oom_kill event\nExiting because a job execution failed\n")
    log.write_text("tables: no\n")
    call.fail(1, "tables", log, others=(slurm,))
    call.terminal.close()
    assert call.lines[3:] == [
        "slurm.log ends with:",
        "    slurmstepd: error: Detected 1 oom_kill event",
        f"{log} ends with:",
        "    tables: no",
    ]
    log.write_text("")
    call.fail(1, "tables", log, others=(slurm,))
    call.terminal.close()
    assert "    Exiting because a job execution failed" in call.lines
    assert call.lines[-1] == f"{log}: it is not there, or empty"


def test_quiet_says_only_what_failed():
    call = Call(io.StringIO(), quiet=True)
    call.plan(train=2, tables=1)
    call.start(1, "tables")
    call.finish(1)
    call.fail(2, "train", call.start(2, "train", run="tood_af", seed="0"))
    call.terminal.close()
    assert {line.split()[0] for line in call.lines if line} == {"train", "work/tiny/logs/train_2.log:"}


def test_of_many_failed_jobs_all_but_the_first_are_short(call):
    for number in range(5):
        log = call.start(number, "evaluate", run="tood_af", seed=str(number))
        log.write_text("why\nit failed\n")
        call.fail(number, "evaluate", log)
    call.terminal.close()
    assert call.lines.count("    why") == 3
    assert call.lines.count("    it failed") == 5


def test_a_refused_option_is_one_line(call):
    rules = "/somewhere/workflow/rules/common.smk"
    where = f'WorkflowError in file "{rules}", line 93:\n'
    again = f'\n  File "{rules}", line 93, in <module>'
    call.send(
        "error", f"{where}--config scale=papr: unknown{again}", logging.ERROR, exception="WorkflowError"
    )
    assert call.lines == ["--config scale=papr: unknown"]
    call.send(
        "error", "MissingRuleException:\nno rule makes x", logging.ERROR, exception="MissingRuleException"
    )
    assert call.lines[1:] == ["MissingRuleException:", "no rule makes x"]


def test_notes_that_snakemake_lacks_are_explained(call):
    text = "{} jobs have missing provenance/metadata so that it\nRules with missing metadata: {}"
    call.send(None, text.format(1, "complexity"))  # whose result git keeps
    call.send(None, text.format(127, "complexity evaluate train"))
    (line,) = call.lines
    assert line.startswith("Snakemake has no notes on 126 finished jobs (folder .snakemake)")
    assert "--forcerun train" in line


def test_a_dry_run_is_counted_by_rule_with_reasons():
    call = Call(io.StringIO(), dry=True)
    counts = dict(check_data=1, train=4, tables=1, all=1)
    call.plan(**counts)
    updated, changed = "Input files updated by another job: a", "Params have changed since last execution: x"
    call.start(9, "tables", f"{updated}; {changed}")
    for seed in range(4):
        reason = "Missing output files: a" if seed else "Forced execution"
        call.start(seed, "train", reason, run="tood_af", seed=str(seed))
    call.start(8, "check_data")
    call.plan(**counts)
    call.send(None, "This was a dry-run (flag -n). The order of jobs does not reflect")
    assert [line.split(maxsplit=2) for line in call.lines[:4]] == [
        ["6", "jobs:"],
        ["1", "check_data", "not there yet"],
        ["4", "train", "forced (1), not there yet (3)"],
        ["1", "tables", "other settings, code or data than before"],
    ]
    assert len(call.lines) == 5


# The terminal


def wait_for(happened) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def test_a_terminal_has_one_line_for_what_runs(quick):
    call = Call(Tty())
    call.plan(train=3, evaluate=3)
    first = call.start(1, "train", run="tood_af", seed="0")
    second = call.start(2, "train", run="atss_af", seed="0")
    first.write_text("old\n")
    second.write_text("train atss_af seed 0  8/552 images  46.0 images/s  0:01:00 left\nindex created!\n")
    os.utime(first, (1, 1))
    shown = "0/3  train atss_af seed 0  8/552 images  46.0  (and 1 more)"
    wait_for(lambda: shown in call.stream.getvalue())
    assert len(shown) == 59
    call.send(None, "news")
    wait_for(lambda: call.stream.getvalue().count(shown) == 2)
    call.terminal.close()
    # Each is removed before the next is written, so nothing of it stays.
    assert f"{shown}\r\033[2Knews\n" in call.stream.getvalue()
    assert call.stream.getvalue().endswith("\r\033[2K")


def test_a_log_has_no_such_line(quick):
    call = Call(io.StringIO())
    call.start(1, "train", run="tood_af", seed="0").write_text("train  8/552 images\n")
    other = call.start(2, "rehearse")
    other.write_text("[1/2] tood_af fits\n[2/2] at")
    wait_for(lambda: call.lines)
    with other.open("a") as file:
        file.write("ss_af fits\n")
    call.finish(2)
    call.terminal.close()
    # What a rehearsal writes is what it was called for.
    assert call.lines[:2] == ["[1/2] tood_af fits", "[2/2] atss_af fits"]
    assert "\033" not in call.stream.getvalue()


def test_a_reader_that_has_ended_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        call = Call(stream)
        for _ in range(2):
            call.send(None, "news")
        call.terminal.close()


def test_nor_is_it_for_snakemakes_own_output(logger):
    reading, writing = os.pipe()
    os.close(reading)
    (theirs,) = logger.handlers
    with open(writing, "w") as theirs.stream:
        take_over(logger, settings(printshellcmds=True))
        theirs.handleError = lambda record: pytest.fail("it failed")
        for _ in range(2):
            logger.warning("news")


# Who prints


def settings(**given: bool) -> SimpleNamespace:
    return SimpleNamespace(
        **(dict.fromkeys(("verbose", "printshellcmds", "debug_dag", "dryrun"), False) | given)
    )


@pytest.fixture
def logger():
    logger = logging.getLogger("test_terminal")
    logger.handlers[:] = []
    handler = logging.StreamHandler(io.StringIO())
    handler.name = "DefaultStreamHandler"
    logger.addHandler(handler)
    return logger


@pytest.mark.parametrize("quiet", [set(), {Quietness.HOST}, {Quietness.PROGRESS, Quietness.RULES}])
def test_the_place_of_snakemakes_own_output_is_taken(logger, quiet):
    (theirs,) = logger.handlers
    ours = take_over(logger, settings(quiet=quiet))
    assert logger.handlers == [ours]
    logger.setLevel(logging.INFO)
    logger.info("news")
    job = dict(rule_name="tables", wildcards={}, log=[], reason="", shellcmd="python")
    logger.info("", extra={"event": "job_info", "jobid": 0, **job})
    logger.info("", extra={"event": "job_finished", "job_id": 0})
    ours.close()
    shown = [line.split()[0] for line in theirs.stream.getvalue().splitlines()]
    assert shown == (["news"] if Quietness.RULES in quiet else ["news", "tables"])


@pytest.mark.parametrize("option", ["printshellcmds", "debug_dag"])
def test_who_asks_for_snakemakes_output_gets_it(logger, option):
    before = list(logger.handlers)
    assert take_over(logger, settings(**{option: True})) is None
    assert logger.handlers == before


def test_verbose_adds_the_logs_of_jobs(logger):
    (theirs,) = logger.handlers
    assert take_over(logger, settings(verbose=True)) is None
    logger.setLevel(logging.INFO)
    Path("a.log").write_text("loading annotations into memory...\n")
    logger.info("", extra={"event": "job_info", "jobid": 0, "log": ["a.log"]})
    assert "loading" not in theirs.stream.getvalue()
    logger.info("", extra={"event": "job_finished", "job_id": 0})
    assert theirs.stream.getvalue().endswith("a.log:\nloading annotations into memory...\n\n")


def test_another_logger_stays(logger):
    logger.handlers[0].name = "rich"
    assert take_over(logger, settings()) is None
    assert logger.handlers[0].name == "rich"
