"""Weights: what a backbone starts from.

output  weights/NAME.pth, shared by all studies; put there by hand where nothing can be fetched
steps   fetch_weights
"""


rule fetch_weights:
    output:
        protected("weights/{name}.pth"),
    log:
        "work/logs/fetch_weights_{name}.log",
    retries: 2
    localrule: True
    shell:
        "python workflow/scripts/fetch_weights.py --name {wildcards.name} --output {output} "
        "2>&1 | tee {log}"
