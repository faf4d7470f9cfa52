"""Models that look safe and are not: known positives for `--attack auto`. docs/results/worst-case.md has what it finds.

python -m tools.known_positives --out runs/dissociated
asabench evaluate --model runs/dissociated --attack auto
asabench evaluate --model runs/dissociated --defence tools.known_positives.masked:Rounded --attack auto
"""
