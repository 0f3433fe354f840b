"""What `attach` may raise. Nothing else of the agent raises into training."""


class StallwatchError(Exception):
    """Root of the errors that Stallwatch raises on purpose."""


class ConfigurationError(StallwatchError, ValueError):
    """An argument or an environment variable has a value that cannot be used; the message names it and the fix."""


class AlreadyAttachedError(StallwatchError, RuntimeError):
    """The model, or the run in this process, is watched already."""
