"""The one exception that the user can do something about."""


class InputError(ValueError):
    """Input that cannot be used; the message is one line: what is wrong, where, what to do."""
