"""Data: a dataset in the COCO layout, checked whole before anything trains on it.

input   a folder of the user's (`data_root`), or the drawing of a scale
output  MANIFEST: what the dataset is (categories, counts, checksums)
steps   generate_data (generated scales only) -> check_data
"""

ANNOTATIONS = [
    str(PLAN.data_root / split.annotations) for split in PLAN.splits.values()
]


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
            "python workflow/scripts/generate_data.py --root {params.root:q} --drawing {params.drawing:q} "
            "2>&1 | tee {log:q}"


rule check_data:
    input:
        # A missing file is check_data's to report: it says what is expected there, with a hint.
        [path for path in ANNOTATIONS if PLAN.drawing or Path(path).exists()],
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
        splits=json.dumps(
            {name: split._asdict() for name, split in PLAN.splits.items()}
        ),
    shell:
        "python workflow/scripts/check_data.py --root {params.root:q} --splits {params.splits:q} "
        "--sizes {resources.sizes:q} --output {output:q} 2>&1 | tee {log:q}"
