"""Shell tasks generated from a seed, scored by the content of the sandbox and by the final answer."""

from atropos_environments.terminal_tasks.environment import TerminalTasks, TerminalTasksConfig

__all__ = ["TerminalTasks", "TerminalTasksConfig"]
