"""The one error that users are meant to read."""


class UserError(Exception):
    """A mistake or a circumstance that the user can mend.

    The message is one clear sentence: the key or file, the value found, what is allowed and the way out. The command
    line prints it without a traceback and exits with status 1; every other exception is a bug and keeps its traceback.
    """
