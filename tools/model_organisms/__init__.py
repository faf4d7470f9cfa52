"""Models with something to remove: a planted backdoor, facts nobody else knows."""
