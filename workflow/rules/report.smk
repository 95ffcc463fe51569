"""Report: every table and figure on one page.

input   RESULTS/tables/*.md, RESULTS/figures/*.png
output  RESULTS/report.html
steps   report
"""


rule report:
    input:
        tables=[path for path in TABLES if path.endswith(".md")],
        figures=[path for path in FIGURES if path.endswith(".png")],
    output:
        f"{RESULTS}/report.html",
    log:
        f"{WORK}/logs/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        name=PLAN.name,
        figures=lambda wildcards, input: (
            ["--figures", *input.figures] if input.figures else []
        ),
    shell:
        "python workflow/scripts/report.py --name {params.name} --tables {input.tables} {params.figures} "
        "--output {output} 2>&1 | tee {log}"
