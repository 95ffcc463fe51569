"""Train: one job a run and seed.

input   MANIFEST, initial weights
output  model.pth; beside it, undeclared, state.json (running, failed, done) and losses.jsonl
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
    threads: lambda wildcards: PLAN.resources(wildcards.run).threads
    resources:
        **asked(lambda wildcards: PLAN.resources(wildcards.run)),
        # Present, it keeps the Slurm executor from starting a step of its own around STEP.
        mpi="",
        # Minutes before the time is up the trainer is told to save its state and to stop.
        slurm_extra="--signal=USR1@120",
    params:
        settings=settings_of,
        code=lambda wildcards: CODE_OF[wildcards.run],
        weights=lambda wildcards, input: (
            f"--weights {input.weights}" if input.weights else ""
        ),
        state=f"{RUN_FOLDER}/state.json",
        records=f"{RUN_FOLDER}/losses.jsonl",
        device=PLAN.device,
        workers=PLAN.scale.resources.workers,
    shell:
        f"{STEP}"
        "python workflow/scripts/train.py --settings {params.settings:q} --seed {wildcards.seed} "
        "--manifest {input.manifest} {params.weights} --device {params.device} --threads {threads} "
        "--workers {params.workers} --state {params.state} --records {params.records} --output {output} "
        "2>&1 | tee {log}"
