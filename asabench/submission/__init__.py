"""Submissions: a model's or defence's numbers with all that is needed to recompute them, and without any text."""
