"""Tables: the paper's claims judged, its six tables and the sweep of m, ours beside the paper's. Of a study of the
user's own data: its methods with their AP, the claims on them, and what else its runs have.

input   the record of every run and seed, also of those that the call does not name, COMPLEXITY; metrics.csv of
        the studies that check the claims of this one, where they exist
output  RESULTS/metrics.csv (every value, what it was made with, stale or not), RESULTS/tables/*.{csv,md,tex},
        RESULTS/table6_readings.csv (Table 6 under other readings of its definitions)
steps   tables
"""

NAMES = table_names(PLAN, DECLARED_TABLES)
TABLES = expand(f"{PATHS.tables}/{{table}}.{{format}}", table=NAMES, format=["csv", "md", "tex"])


rule tables:
    input:
        records([*PLAN.trainings, *OTHERS]),
        complexity=COMPLEXITY,
        checks=[path for check in CHECKS if (path := StudyPaths(check.study).metrics).is_file()],
    output:
        PATHS.metrics,
        PATHS.readings,
        [reported("table", table, f"{PATHS.tables}/{table}.csv") for table in NAMES],
        expand(f"{PATHS.tables}/{{table}}.{{format}}", table=NAMES, format=["md", "tex"]),
    log:
        f"{PATHS.logs}/tables.log",
    localrule: True
    params:
        study=PLAN.study.model_dump_json(exclude_none=True),
        notes=PLAN.notes(),
        published=PUBLISHED,
        declared=[DECLARED_TABLES[name].model_dump_json() for name in NAMES if name in DECLARED_TABLES],
        claims=[claim.model_dump_json() for claim in CLAIMS],
        checks=[check.model_dump_json() for check in CHECKS],
    shell:
        f"{study.PYTHON} "
        "workflow/step.py tables --study {params.study:q} --complexity {input.complexity:q} "
        "> {log:q} 2>&1"
