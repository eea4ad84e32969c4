"""The one error that data raises for something its user can put right."""


class DataError(ValueError):
    """Data is missing, damaged or laid out otherwise than expected.

    The message says what was looked for, what was found and what to do.
    """


class ExampleError(DataError):
    """One example cannot be used; the message says why, not which one."""
