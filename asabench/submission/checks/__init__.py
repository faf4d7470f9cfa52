"""The checks of a submission's parts, a file each: pure functions of parsed records that yield what is wrong."""
