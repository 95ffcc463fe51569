"""Weights: what backbones start from, and what others released.

input   of import_released: MANIFEST, and a file under weights/released/
output  weights/NAME.pth and weights/released/FILE.pth, shared by all studies; put there by hand where nothing
        can be fetched. FILE.origin.json beside each says where it came from.
        With `weights=released`, in place of a training: model.pth, and beside it state.json, provenance.json
steps   fetch_weights; fetch_released -> import_released
"""

# Snakemake deletes what a rule makes before it makes it again, so no rule makes a file that is there: it may have
# been put there by hand.
ABSENT = [choice.file for choice in PLAN.choices.values() if choice.file and not choice.file.path.exists()]


rule fetch_weights:
    output:
        protected("weights/{name}.pth"),
    log:
        "work/logs/fetch_weights_{name}.log",
    wildcard_constraints:
        name="|".join(re.escape(name) for name in sorted({run.weights for run in PLAN.all_runs.values()})),
    localrule: True
    shell:
        "python workflow/step.py fetch_weights --name {wildcards.name:q} --output {output:q} "
        "> {log:q} 2>&1"


if ABSENT:

    rule fetch_released:
        output:
            protected(f"{RELEASED}/{{file}}"),
        log:
            "work/logs/fetch_released_{file}.log",
        wildcard_constraints:
            file="|".join(re.escape(released.file) for released in ABSENT),
        localrule: True
        params:
            released=lambda wildcards: next(
                released.model_dump_json(include={"run", "file", "origin", "address"}, exclude_none=True)
                for released in ABSENT
                if released.file == wildcards.file
            ),
        shell:
            "python workflow/step.py fetch_released --released {params.released:q} --output {output:q} "
            "> {log:q} 2>&1"


if PLAN.imports:

    rule import_released:
        input:
            file=lambda wildcards: PLAN.released(wildcards.run).path,
            manifest=MANIFEST,
        output:
            OF_RUN.model,
        log:
            f"{PATHS.logs}/import_{{run}}_seed{{seed}}.log",
        localrule: True
        resources:
            # What is said of the file, not what comes out. A change of a param would import again.
            released=lambda wildcards: PLAN.released(wildcards.run).model_dump_json(exclude_defaults=True),
        params:
            job=lambda wildcards: import_job(PLAN, *training_of(wildcards)).argument(),
            folder=subpath(output[0], parent=True),
        shell:
            f"{study.PYTHON} "
            "workflow/step.py import_released --job {params.job:q} "
            "--released {resources.released:q} --folder {params.folder:q} --output {output:q} > {log:q} 2>&1"
