"""The one exception a user is meant to meet."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one line that says what was given, what is allowed and
    what to do. The command line prints it and exits with code 2."""


class NotAtHand(UserError):
    """Something that is needed cannot be had on this machine: it is neither installed nor to be had from the hub, or
    cannot be read. Nothing that the user gave is wrong; a check that needed it could not be made."""
