"""The one exception a user is meant to meet."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one line that says what was given, what is allowed and
    what to do. The command line prints it and exits with code 2."""


class NotAtHand(UserError):
    """Something that is needed cannot be had on this machine: it is neither installed nor to be had from the hub, or
    cannot be read. Nothing that the user gave is wrong; a check that needed it could not be made."""


_LONGEST = 200


def one_line(error: BaseException) -> str:
    """What an error that is not ours says, in a line of 200 characters at most; the name of its type where it says
    nothing. Of the system's, only what went wrong: which file it was is for the caller to say."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:_LONGEST] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what it says, where the next ones are details; one that only announces a list comes with the
    first of the list. Of an error that says a key alone, with its type."""
    said = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return text[:_LONGEST] or type(error).__name__


def with_type(error: BaseException) -> str:
    """`ValueError: what it says`, in one line; the type alone where it says nothing."""
    name, said = type(error).__name__, one_line(error)
    return name if said == name else f"{name}: {said}"
