"""Report: every table and figure on one page.

input   RESULTS/tables/*.md, RESULTS/figures/*.png
output  RESULTS/report.html
steps   report
"""


rule report:
    input:
        tables=[path for path in TABLES if path.endswith(".md")],
        figures=PICTURES,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{WORK}/logs/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        command=lambda wildcards, input: report_command(RESULTS, list(input.figures)),
    shell:
        "{params.command:q} 2>&1 | tee {log}"
