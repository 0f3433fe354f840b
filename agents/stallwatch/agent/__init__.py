"""Watches distributed PyTorch training from inside each rank.

from stallwatch.agent import attach

watch = attach(model, optimizer)
...
watch.log(loss, samples=len(batch))
"""

from stallwatch.agent._attach import attach
from stallwatch.agent._errors import AlreadyAttachedError, ConfigurationError, StallwatchError
from stallwatch.agent._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stallwatch.agent._agent import Agent

__all__ = ["Agent", "AlreadyAttachedError", "ConfigurationError", "StallwatchError", "__version__", "attach"]


def __getattr__(name: str) -> object:
    # gRPC is imported with the agent itself, not by whoever only imports this package.
    if name == "Agent":
        from stallwatch.agent._agent import Agent

        return Agent
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
