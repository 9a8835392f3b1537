"""The error tree, drawn by boundary. Every type pickles and has a fitting standard parent.

AtroposAgentError
├── ConfigError (ValueError)            what the user wrote
│   └── PluginNotFound (LookupError)    a name that no entry point carries
├── ProviderError (RuntimeError)        the inference server
│   ├── ServerUnreachable (ConnectionError)
│   ├── RequestTimeout (TimeoutError)
│   ├── ServerRefused                   an HTTP status that is not 2xx
│   │   ├── ModelNotFound (LookupError)
│   │   └── ContextOverflow
│   └── MalformedReply (ValueError)     2xx, but not what the protocol promises
├── RenderError (ValueError)            chat template and tokenizer
│   └── BridgeMismatch                  the run-time check caught the template branching
├── ToolError (RuntimeError)            a tool that cannot be registered or built
├── SandboxError (RuntimeError)
│   ├── SandboxUnavailable (OSError)    no isolation to be had on this machine
│   ├── SandboxLost (ConnectionError)   the slot died under a command
│   └── SandboxBusy (TimeoutError)      no sandbox became free in time
├── TaskError (RuntimeError)            an environment's own code failed
└── RecordError (ValueError)            what is recorded or exported
    ├── AmbiguousTrajectory             several sequences where one was asked for
    └── RunDirectoryError (OSError)     the log cannot be read or written

A bad rollout is data, not a crash: these are captured once, at the edge of a rollout
(`environment.py`), and recorded as type and text. Programming errors and CancelledError pass.
Messages say what was given, what is possible, and the next act.
"""


class AtroposAgentError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigError(AtroposAgentError, ValueError):
    """A config file, flag, argument or environment variable is wrong."""


class PluginNotFound(ConfigError, LookupError):
    """No installed plugin has this name, or its target cannot be imported."""


class ProviderError(AtroposAgentError, RuntimeError):
    """The inference server failed or said something unusable."""


class ServerUnreachable(ProviderError, ConnectionError):
    """No connection to the server could be made, or it broke on every attempt."""


class RequestTimeout(ProviderError, TimeoutError):
    """One request outlived its own time limit."""


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
    """A tool is defined wrongly. What goes wrong *inside* a call is an observation instead."""


class SandboxError(AtroposAgentError, RuntimeError):
    """The sandbox failed; no limit of the sandbox was hit by the command."""


class SandboxUnavailable(SandboxError, OSError):
    """This machine cannot give the isolation asked for."""


class SandboxLost(SandboxError, ConnectionError):
    """The sandbox died; nothing in it can be reached any more."""


class SandboxBusy(SandboxError, TimeoutError):
    """Others held every sandbox for longer than the caller was ready to wait."""


class TaskError(AtroposAgentError, RuntimeError):
    """An environment's own code (task, workspace, scorer) failed."""


class RecordError(AtroposAgentError, ValueError):
    """A record is malformed or cannot take the shape asked for."""


class AmbiguousTrajectory(RecordError):
    """A rollout has several training sequences where exactly one was asked for."""


class RunDirectoryError(RecordError, OSError):
    """A run directory cannot be read, written or continued."""
