"""Train: one job a run and seed.

input   MANIFEST, initial weights
output  model.pth; beside it, undeclared, so that Snakemake does not delete them when a job starts or fails:
        state.json, losses.jsonl, checkpoints/, and whose turn it is (lock, lock.json)
steps   train
"""


rule train:
    input:
        manifest=MANIFEST,
        weights=initial_weights,
    output:
        f"{RUN_FOLDER}/model.pth",
    log:
        f"{WORK}/logs/train_{{run}}_seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: CPUS
    resources:
        gpu=GPUS * PLAN.scale.resources.gpus,
        nodes=PLAN.scale.resources.nodes,
        mem_mb=PLAN.scale.resources.mem_mb,
        runtime=PLAN.scale.resources.runtime,
    params:
        settings=settings_of,
        code=lambda wildcards: CODE_OF[wildcards.run],
        weights=lambda wildcards, input: (
            f"--weights {input.weights}" if input.weights else ""
        ),
        folder=subpath(output[0], parent=True),
    shell:
        training_command()
        + " --settings {params.settings:q} --seed {wildcards.seed} --code {params.code} "
        "--manifest {input.manifest} {params.weights} --threads {threads} "
        "--folder {params.folder} --output {output} 2>&1 | tee {log}"
