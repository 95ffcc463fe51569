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
    threads: lambda wildcards: PLAN.resources(wildcards.run).threads
    resources:
        **asked(lambda wildcards: PLAN.resources(wildcards.run)),
        # Present, it keeps the Slurm executor from starting a step of its own around STEP.
        mpi="",
        trainer=trainer_of,
        # Minutes before the time is up the trainer is told to save its state and to stop.
        slurm_extra="--signal=USR1@120",
    params:
        settings=settings_of,
        code=lambda wildcards: CODE_OF[wildcards.run],
        weights=lambda wildcards, input: (
            f"--weights {input.weights}" if input.weights else ""
        ),
        folder=subpath(output[0], parent=True),
    shell:
        f"{STEP}"
        "{resources.trainer} --settings {params.settings:q} --seed {wildcards.seed} --code {params.code} "
        "--manifest {input.manifest} {params.weights} --threads {threads} "
        "--folder {params.folder} --output {output} 2>&1 | tee {log}"
