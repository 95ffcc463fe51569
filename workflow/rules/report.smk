"""Report: claims, tables, figures and runs on one page; the results in README.md and docs/.

input   RESULTS/tables/*.md, RESULTS/figures/*.png
        of `readme`: COMPLEXITY and, where present, metrics.csv and records of the kept studies
output  RESULTS/report.html
        of `readme`: the parts of README.md, docs/results.md, mini.md and cells.md between their markers;
        on demand only (`make readme`)
steps   report; readme
"""


rule report:
    input:
        tables=[path for path in TABLES if path.endswith(".md")],
        figures=[path for path in FIGURES if path.endswith(".png")],
        kept=[picture(name) for name in KEPT if name not in NOT_SHOWN],
    output:
        reported("page", PLAN.name, PATHS.report),
    log:
        f"{PATHS.logs}/report.log",
    localrule: True
    params:
        study=PLAN.study.model_dump_json(exclude_none=True),
        absent=json.dumps(NOT_SHOWN),
    shell:
        "python workflow/step.py report --study {params.study:q} --figures {input.figures:q} {input.kept:q} "
        "--absent {params.absent:q} > {log:q} 2>&1"


# No page is an `output`: Snakemake deletes outputs before it makes them, and this rule keeps most of each page.
rule readme:
    input:
        COMPLEXITY,
    log:
        "work/logs/readme.log",
    localrule: True
    shell:
        "python workflow/step.py readme --readme README.md --kept docs/results.md --mini docs/mini.md "
        "--cells docs/cells.md --results results > {log:q} 2>&1"
