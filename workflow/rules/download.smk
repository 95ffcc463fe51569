"""Download: all that a study needs from the web, for clusters whose nodes have no network; on demand only.

input   what backbones start from, or the released files
output  COCO 2017 in data_root, unless the scale draws its data; nothing is fetched that is there
steps   download
"""


rule download:
    input:
        [path for run in RUNS if (path := PLAN.initial_weights(run))],
        [choice.file.path for choice in PLAN.choices.values() if choice.file],
    log:
        f"{PATHS.logs}/download.log",
    localrule: True
    params:
        root=PLAN.data_root,
        archives=study.archives(PLAN),
    shell:
        "python workflow/step.py download --root {params.root:q} --archives {params.archives:q} "
        "> {log:q} 2>&1"
