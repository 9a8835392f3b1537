"""Shell tasks made from a seed, judged by what the sandbox really contains and by the final answer."""

from atropos_environments.terminal_tasks.environment import TerminalTasks, TerminalTasksConfig

__all__ = ["TerminalTasks", "TerminalTasksConfig"]
