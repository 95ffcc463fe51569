"""Tables: the paper's six and the sweep of m, ours beside the paper's.

input   ap.json and alignment.json of every run and seed, COMPLEXITY
output  RESULTS/metrics.csv (run, seed, metric, value, stale), RESULTS/tables/*.{csv,md,tex},
        RESULTS/table6_readings.csv (Table 6 under other readings of its definitions)
steps   tables
"""

TABLES = expand(
    f"{RESULTS}/tables/{{table}}.{{format}}",
    table=DECLARED_TABLES,
    format=["csv", "md", "tex"],
)


rule tables:
    input:
        of_all_runs(f"{RUN_FOLDER}/ap.json"),
        COMPLEXITY,
        of_all_runs(f"{RUN_FOLDER}/alignment.json", ANALYSED),
    output:
        f"{RESULTS}/metrics.csv",
        f"{RESULTS}/table6_readings.csv",
        TABLES,
    log:
        f"{WORK}/logs/tables.log",
    localrule: True
    params:
        command=aggregate_command(RESULTS),
        notes=PLAN.notes(),
    shell:
        "{params.command:q} 2>&1 | tee {log}"
