"""Speed, measured as ratios within one process. `make bench` runs these; tests never assert time."""
