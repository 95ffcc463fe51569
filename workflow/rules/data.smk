"""Data: a dataset in the COCO layout, checked whole before anything trains on it.

input   the drawing of a scale, or a folder of the user's (`data_root`), whose files are not declared: their content
        decides, not their times
output  MANIFEST: what the dataset is (categories, counts, checksums); of data in VOC's or YOLO's layout, or with some of
        their classes, work/STUDY/data, the same in COCO's
steps   generate_data (generated scales), or convert_data (other layouts than COCO's, some classes) -> check_data
"""

ANNOTATIONS = [str(PLAN.data_root / split.annotations) for split in PLAN.splits.values()]


if PLAN.drawing:

    rule generate_data:
        output:
            ANNOTATIONS,
        log:
            f"{PATHS.logs}/generate_data.log",
        localrule: True
        params:
            root=PLAN.data_root,
            drawing=PLAN.drawing.model_dump_json(),
        shell:
            "python workflow/step.py generate_data --root {params.root:q} --drawing {params.drawing:q} "
            "> {log:q} 2>&1"


if PLAN.conversion:

    rule convert_data:
        output:
            ANNOTATIONS,
        log:
            f"{PATHS.logs}/convert_data.log",
        threads: EVALUATION.threads
        resources:
            **study.requests(lambda wildcards: EVALUATION, on_gpu=False),
        params:
            # Without defaults, so that a new option converts nothing again
            conversion=PLAN.conversion.model_dump_json(exclude_defaults=True),
            # Of the content of what is converted, so that a change of it converts again; empty where a file is
            # missing, which is convert_data's to report
            sources=lambda wildcards: PLAN.sources,
            folder=PLAN.data_root,
        shell:
            "python workflow/step.py convert_data --conversion {params.conversion:q} --sources={params.sources:q} "
            "--folder {params.folder:q} > {log:q} 2>&1"


rule check_data:
    input:
        # Of a user's files the content decides, a param, and not the times, which may lie in the future. One that
        # is missing is check_data's to report: it says what is expected there, with a hint.
        ANNOTATIONS if PLAN.drawing or PLAN.conversion else [],
    output:
        MANIFEST,
    log:
        f"{PATHS.logs}/check_data.log",
    threads: EVALUATION.threads
    resources:
        **study.requests(lambda wildcards: EVALUATION, on_gpu=False),
        # A call with other sizes looks at the manifest. A change of a param would check every image again.
        sizes=lambda wildcards: json.dumps(PLAN.input_sizes),
    params:
        root=PLAN.data_root,
        splits=json.dumps({name: split._asdict() for name, split in PLAN.splits.items()}),
        annotations=lambda wildcards: study.content_of_annotations(PLAN),
    shell:
        "python workflow/step.py check_data --root {params.root:q} --splits {params.splits:q} "
        "--sizes {resources.sizes:q} --output {output:q} > {log:q} 2>&1"
