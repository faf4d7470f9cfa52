"""Processor time, which other work on a machine changes less than the time on the clock."""

from __future__ import annotations

import resource


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended, since its start."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
