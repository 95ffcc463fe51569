"""Tables: the paper's claims judged, its six tables and the sweep of m, ours beside the paper's.

input   the record of every run and seed, also of those that the call does not name, COMPLEXITY
output  RESULTS/metrics.csv (run, seed, metric, value, stale), RESULTS/tables/*.{csv,md,tex},
        RESULTS/table6_readings.csv (Table 6 under other readings of its definitions)
steps   tables
"""

NAMES = ["claims", *DECLARED_TABLES]
TABLES = expand(
    f"{PATHS.tables}/{{table}}.{{format}}", table=NAMES, format=["csv", "md", "tex"]
)


rule tables:
    input:
        records([*PLAN.trainings, *OTHERS]),
        complexity=COMPLEXITY,
    output:
        PATHS.metrics,
        PATHS.readings,
        [reported("table", table, f"{PATHS.tables}/{table}.csv") for table in NAMES],
        expand(
            f"{PATHS.tables}/{{table}}.{{format}}", table=NAMES, format=["md", "tex"]
        ),
    log:
        f"{PATHS.logs}/tables.log",
    localrule: True
    params:
        study=PLAN.study.model_dump_json(exclude_none=True),
        notes=PLAN.notes(),
        published=PUBLISHED,
        claims=[claim.model_dump_json() for claim in CLAIMS],
    shell:
        "python workflow/step.py tables --study {params.study:q} --complexity {input.complexity:q} "
        "2>&1 | tee {log:q}"
