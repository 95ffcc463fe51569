"""Figures: the claims, the paper's Figures 1 and 4, views of Table 6's runs, sweeps of TAL's parameters, positives.

input   of Figures 1 and 4 model.pth and best_anchors.json, or the weights kept beside the record, and MANIFEST: the
        first seed of ATSS and TOOD (or of the one that the study has);
        of the views best_anchors.json, detections.json and evaluated_images.json of the runs of Table 6; the tables
        of the sweeps, where the study has all of their runs; claims.csv; of the schemes their records
output  RESULTS/figures/*.{png,pdf}: figure1, figure4; distances, score_iou, ap_by_iou, box_kinds;
        sweep_m, alpha_beta; claims; positives. Beside each a picture for dark pages, *_dark.png, and its caption, *.md
steps   figure1; views; sweeps; forest; positives
"""

FIGURES = expand(f"{PATHS.figures}/{{figure}}.{{format}}", figure=DRAWN, format=["png", "pdf"])


if "figure1" in DRAWN:
    FIGURE_1 = figure1_job(PLAN, SOURCES["figure1"], RECORDED)

    rule figure1:
        input:
            models=[run.model for run in FIGURE_1.detectors.values()],
            best_anchors=of_each(
                OF_RUN.best_anchors, [run for run in SOURCES["figure1"].all if run not in RECORDED]
            ),
            manifest=MANIFEST,
        output:
            figure_files("figure1", "figure4"),
        log:
            f"{PATHS.logs}/figure1.log",
        threads: EVALUATION.threads
        resources:
            **MEASURING,
        params:
            job=FIGURE_1.argument(),
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
            figure_files(*VIEWS),
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
            f"{study.PYTHON} "
            "workflow/step.py views --runs {params.runs:q} --manifest {input.manifest:q} "
            "--annotations {params.annotations:q} --output {params.folder:q} > {log:q} 2>&1"


rule sweeps:
    input:
        table_m=f"{PATHS.tables}/table_m.csv",
        table4=f"{PATHS.tables}/table4.csv",
        metrics=PATHS.metrics,
    output:
        figure_files("sweep_m", "alpha_beta"),
    log:
        f"{PATHS.logs}/sweeps.log",
    localrule: True
    params:
        folder=subpath(output[0], parent=True),
    shell:
        f"{study.PYTHON} "
        "workflow/step.py sweeps --table-m {input.table_m:q} --table4 {input.table4:q} "
        "--metrics {input.metrics:q} --output {params.folder:q} > {log:q} 2>&1"


if FOREST in DRAWN:

    rule forest:
        input:
            claims=f"{PATHS.tables}/claims.csv",
        output:
            figure_files(FOREST),
        log:
            f"{PATHS.logs}/forest.log",
        localrule: True
        params:
            picture=subpath(output[0]),
        shell:
            f"{study.PYTHON} "
            "workflow/step.py forest --claims {input.claims:q} --output {params.picture:q} "
            "> {log:q} 2>&1"


if "positives" in DRAWN:

    rule positives:
        input:
            records(SOURCES["positives"].all),
        output:
            figure_files("positives"),
        log:
            f"{PATHS.logs}/positives.log",
        localrule: True
        params:
            picture=subpath(output[0]),
            records=json.dumps(
                {name: records(trainings) for name, trainings in SOURCES["positives"].trainings.items()}
            ),
        shell:
            f"{study.PYTHON} "
            "workflow/step.py positives --records {params.records:q} "
            "--output {params.picture:q} > {log:q} 2>&1"
