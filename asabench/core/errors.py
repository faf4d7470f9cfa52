"""The one exception a user is meant to meet."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one line that says what was given, what is allowed and
    what to do. The command line prints it and exits with code 2."""
