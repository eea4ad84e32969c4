"""Errors of a run whose message tells its user what to do."""


class UsageError(ValueError):
    """A command line that cannot be understood; the message says what to do."""


class RunError(RuntimeError):
    """A run that cannot begin or go on."""


class InUseError(RunError):
    """Another process holds the directory."""


class CheckpointError(RunError):
    """A checkpoint that is missing or cannot be read back."""


class OtherProgramError(CheckpointError):
    """A whole checkpoint of a state of another shape."""


class DivergedError(RunError):
    """A metric became NaN or infinite."""


class Interrupted(RunError):
    """The run was asked to stop; its state is saved."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
