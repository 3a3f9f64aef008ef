"""The errors that callers tell apart from an ordinary ValueError or RuntimeError."""


class LoadError(ValueError):
    """A file or a tensor in it that cannot be read or cannot be trusted; the message names both."""


class MergeError(RuntimeError):
    """An adapter that cannot be folded into its base, or not exactly."""


class TrainingError(RuntimeError):
    """A training step whose loss or gradient is not finite; nothing of it was committed."""
