"""The error tree, by boundary. Every type can be pickled and also has a standard exception as its parent.

AtroposAgentError
├── ConfigError (ValueError)            what the user wrote
│   └── PluginNotFound (LookupError)    no plugin has this name
├── ProviderError (RuntimeError)        the inference server
│   ├── ServerUnreachable (ConnectionError)
│   ├── RequestTimeout (TimeoutError)
│   ├── ServerRefused                   an HTTP status that is not 2xx
│   │   ├── ModelNotFound (LookupError)
│   │   └── ContextOverflow
│   └── MalformedReply (ValueError)     2xx, but not what the protocol promises
├── RenderError (ValueError)            chat template and tokenizer
│   └── BridgeMismatch                  the run-time check of a bridge failed
├── ToolError (RuntimeError)            a tool that cannot be registered or built
├── SandboxError (RuntimeError)
│   ├── SandboxUnavailable (OSError)    this machine offers no isolation
│   ├── SandboxLost (ConnectionError)   the slot died under a command
│   └── SandboxBusy (TimeoutError)      no sandbox became free in time
├── TaskError (RuntimeError)            an environment's own code failed
└── RecordError (ValueError)            what is recorded or exported
    ├── AmbiguousTrajectory             several sequences where one was asked for
    ├── TooFewRows                      a group leaves too few rollouts to train on
    └── RunDirectoryError (OSError)     the log cannot be read or written

A failed rollout is data, not a crash: the agent's run and the environment's episode capture these errors
once and record them as a `Failure`. Programming errors and CancelledError propagate. Messages say what was
given, what is possible, and what to do next.
"""

import asyncio


# Raise every type with one text only. OSError (also through ConnectionError and TimeoutError) reads two or
# more arguments as errno and strerror.
class AtroposAgentError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigError(AtroposAgentError, ValueError):
    """A config file, flag, argument or environment variable is wrong."""


class PluginNotFound(ConfigError, LookupError):
    """No installed plugin has this name, or its target cannot be imported."""


class ProviderError(AtroposAgentError, RuntimeError):
    """The inference server failed or gave an unusable answer."""


class ServerUnreachable(ProviderError, ConnectionError):
    """No connection to the server could be made, or it broke on every attempt."""


class RequestTimeout(ProviderError, TimeoutError):
    """One request exceeded its own time limit."""


class ServerRefused(ProviderError):
    """The server answered with an error status."""


class ModelNotFound(ServerRefused, LookupError):
    """The server does not serve a model of this name."""


class ContextOverflow(ServerRefused):
    """The prompt does not fit the server's context."""


class MalformedReply(ProviderError, ValueError):
    """The body breaks the protocol: not JSON, cut, empty choices, wrong counts, bad numbers."""


class RenderError(AtroposAgentError, ValueError):
    """Messages cannot be rendered to token ids with this template and tokenizer."""


class BridgeMismatch(RenderError):
    """The template's own rendering disagrees with the certified bridge on this conversation."""


class ToolError(AtroposAgentError, RuntimeError):
    """A tool is defined wrongly. A failure *inside* a call is an observation, not an exception."""


class SandboxError(AtroposAgentError, RuntimeError):
    """The sandbox itself failed. A command that hits a limit of the sandbox is not an error of this kind."""


class SandboxUnavailable(SandboxError, OSError):
    """This machine cannot provide the requested isolation."""


class SandboxLost(SandboxError, ConnectionError):
    """The sandbox died; its processes and files are gone."""


class SandboxBusy(SandboxError, TimeoutError):
    """No sandbox became free within the caller's time limit."""


class TaskError(AtroposAgentError, RuntimeError):
    """An environment's own code (task, workspace, scorer) failed."""


class RecordError(AtroposAgentError, ValueError):
    """A record is malformed or cannot be converted to the requested form."""


class AmbiguousTrajectory(RecordError):
    """A rollout has several training sequences where the caller needs exactly one."""


class TooFewRows(RecordError):
    """A group has fewer rollouts that give a row than it must have to be delivered."""


class RunDirectoryError(RecordError, OSError):
    """A run directory cannot be read, written or resumed."""


def is_failure(error: BaseException) -> bool:
    """True where `error` is a failure of the code that raised it, and must cost that code's call alone.

    That is each Exception, SystemExit (`exit()` in a verifier), and a CancelledError although the current
    task was not cancelled. A real cancellation, KeyboardInterrupt and GeneratorExit are not.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, Exception | SystemExit)
