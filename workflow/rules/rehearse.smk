"""Rehearse: every run of the call at its full size for a few iterations, one after another; on demand only.

input   the drawing of a scale, or a folder of the user's, of which a few images are taken; initial weights if they
        are there
output  work/STUDY/rehearsal: table.csv, and what was measured of each run. Nothing of it counts as the study's.
        Undeclared, so that an interrupted call is continued by the next one
steps   rehearse
"""

if not PLAN.imports:

    rule rehearse:
        input:
            ANNOTATIONS if PLAN.drawing or PLAN.conversion else [],
        log:
            f"{PATHS.rehearsal}/rehearse.log",
        threads: study.rehearsal_resources(PLAN).threads
        resources:
            **study.requests(lambda wildcards: study.rehearsal_resources(PLAN), PLAN.on_gpu),
        params:
            study=PLAN.study.model_dump_json(exclude_none=True),
            analysed=ANALYSED,
            table=PATHS.rehearsal / "table.csv",
        shell:
            "python workflow/step.py rehearse --study {params.study:q} --threads {threads:q} "
            "--analysed {params.analysed:q} --table {params.table:q} > {log:q} 2>&1"
