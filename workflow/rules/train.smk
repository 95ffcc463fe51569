"""Train: one job per run and seed; none where the study takes released weights.

input   MANIFEST, initial weights
output  model.pth; beside it, undeclared, so that Snakemake does not delete them when a job starts or fails:
        state.json, losses.jsonl, checkpoints/, and whose turn it is (lock, lock.json); of a training that
        diverges its record
steps   train
"""

if not PLAN.imports:

    rule train:
        input:
            manifest=MANIFEST,
            weights=lambda wildcards: PLAN.initial_weights(wildcards.run) or [],
        output:
            OF_RUN.model,
        log:
            f"{PATHS.logs}/train_{{run}}_seed{{seed}}.log",
        wildcard_constraints:
            run=study.not_recorded(NOT_MADE),
        threads: lambda wildcards: PLAN.resources(wildcards.run).threads
        resources:
            **study.requests(lambda wildcards: PLAN.resources(wildcards.run), PLAN.on_gpu),
            # Present, it keeps the Slurm executor from starting a step of its own around STEP.
            mpi="",
            # How the training is computed, not what comes out. A change of a param would train again.
            launcher=lambda wildcards: study.launcher(PLAN.resources(wildcards.run), PLAN.on_gpu),
            execution=lambda wildcards, threads: PLAN.training_execution(wildcards.run, threads).argument(),
            # Written by a training that diverges, undeclared, as the job fails.
            record=lambda wildcards: str(PATHS.record(wildcards.run, wildcards.seed)),
            # Minutes before the time is up the trainer is told to save its state and to stop.
            slurm_extra=lambda wildcards: study.slurm_options(
                PLAN.resources(wildcards.run), PLAN.on_gpu, gpu_model("train")
            ),
        params:
            job=lambda wildcards: training_job(PLAN, *training_of(wildcards)).argument(),
            folder=subpath(output[0], parent=True),
        shell:
            f"{STEP}"
            "{resources.launcher} workflow/step.py train --job {params.job:q} "
            "--execution {resources.execution:q} --folder {params.folder:q} "
            "--record {resources.record:q} --output {output:q} > {log:q} 2>&1"
