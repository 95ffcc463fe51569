"""Figures: the claims, the paper's Figures 1 and 4, views of Table 6's runs, sweeps of TAL's parameters, positives.

input   of Figures 1 and 4 model.pth, best_anchors.json and MANIFEST: the first seed of ATSS and TOOD (or of the one
        that the study has);
        of the views best_anchors.json, detections.json and evaluated_images.json of the runs of Table 6; the tables
        of the sweeps, where the study has all of their runs; claims.csv; of the schemes their records
output  RESULTS/figures/*.{png,pdf}: figure1, figure4; distances, score_iou, ap_by_iou, box_kinds;
        sweep_m, alpha_beta; claims; positives. Beside the first six and the claims their captions, *.md
steps   figure1; views; sweeps; forest; positives
"""

FIGURES = expand(
    f"{PATHS.figures}/{{figure}}.{{format}}", figure=DRAWN, format=["png", "pdf"]
)


if "figure1" in DRAWN:

    rule figure1:
        input:
            models=of_each(OF_RUN.model, SOURCES["figure1"].all),
            best_anchors=of_each(OF_RUN.best_anchors, SOURCES["figure1"].all),
            manifest=MANIFEST,
        output:
            pictures("figure1", "figure4"),
            expand(
                f"{PATHS.figures}/{{figure}}.{{format}}",
                figure=["figure1", "figure4"],
                format=["pdf", "md"],
            ),
        log:
            f"{PATHS.logs}/figure1.log",
        threads: EVALUATION.threads
        resources:
            **MEASURING,
        params:
            job=figure1_job(PLAN, SOURCES["figure1"]).argument(),
            folder=subpath(output[0], parent=True),
        shell:
            f"{study.PYTHON} "
            "workflow/step.py figure1 --job {params.job:q} --execution {resources.execution:q} "
            "--output {params.folder:q} > {log:q} 2>&1"


if VIEWS[0] in DRAWN:

    rule views:
        input:
            best_anchors=of_each(OF_RUN.best_anchors, SOURCES[VIEWS[0]].all),
            detections=of_each(OF_RUN.detections, SOURCES[VIEWS[0]].all),
            images=of_each(OF_RUN.evaluated_images, SOURCES[VIEWS[0]].all),
            manifest=MANIFEST,
        output:
            pictures(*VIEWS),
            expand(
                f"{PATHS.figures}/{{figure}}.{{format}}",
                figure=VIEWS,
                format=["pdf", "md"],
            ),
        log:
            f"{PATHS.logs}/views.log",
        localrule: True
        params:
            runs=json.dumps(
                {
                    name: of_each(OF_RUN.folder, trainings)
                    for name, trainings in SOURCES[VIEWS[0]].trainings.items()
                }
            ),
            annotations=PLAN.splits["val"].annotations,
            folder=subpath(output[0], parent=True),
        shell:
            "python workflow/step.py views --runs {params.runs:q} --manifest {input.manifest:q} "
            "--annotations {params.annotations:q} --output {params.folder:q} > {log:q} 2>&1"


rule sweeps:
    input:
        table_m=f"{PATHS.tables}/table_m.csv",
        table4=f"{PATHS.tables}/table4.csv",
    output:
        pictures("sweep_m", "alpha_beta"),
        expand(f"{PATHS.figures}/{{figure}}.pdf", figure=["sweep_m", "alpha_beta"]),
    log:
        f"{PATHS.logs}/sweeps.log",
    localrule: True
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python workflow/step.py sweeps --table-m {input.table_m:q} --table4 {input.table4:q} "
        "--output {params.folder:q} > {log:q} 2>&1"


if FOREST in DRAWN:

    rule forest:
        input:
            claims=f"{PATHS.tables}/claims.csv",
        output:
            png=pictures(FOREST),
            others=expand(f"{PATHS.figures}/{FOREST}.{{format}}", format=["pdf", "md"]),
        log:
            f"{PATHS.logs}/forest.log",
        localrule: True
        shell:
            "python workflow/step.py forest --claims {input.claims:q} --output {output.png:q} "
            "> {log:q} 2>&1"


if "positives" in DRAWN:

    rule positives:
        input:
            records(SOURCES["positives"].all),
        output:
            png=pictures("positives"),
            pdf=f"{PATHS.figures}/positives.pdf",
        log:
            f"{PATHS.logs}/positives.log",
        localrule: True
        params:
            records=json.dumps(
                {
                    name: records(trainings)
                    for name, trainings in SOURCES["positives"].trainings.items()
                }
            ),
        shell:
            "python workflow/step.py positives --records {params.records:q} "
            "--png {output.png:q} --pdf {output.pdf:q} > {log:q} 2>&1"
