"""ASABench, the dataset: validated instances with their layers, and every attempt beside them (docs/dataset.md)."""
