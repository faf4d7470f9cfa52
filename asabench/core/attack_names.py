"""What attacks are called in rows and tables."""

REQUIRED_ATTACKS = ("random", "gradient-ascend", "gradient-descend", "pgd")
"""What every ranked entry was attacked with. `pgd` is the adaptive one: it works through the defence itself."""
