"""What a dialect writes into text, as data: the renderer itself knows no dialect."""

from __future__ import annotations

from dataclasses import dataclass

from atropos_agent.errors import RenderError


@dataclass(frozen=True, slots=True)
class Marks:
    """Markers and control texts of a dialect, and example messages for the probes.

    A renderer needs the examples because templates branch on the text of messages: Qwen3 does not take a
    user message that begins with `<tool_response>` for a question. Every field may be empty. Probes leave
    out what the dialect does not write.

    - `reasoning_open`, `reasoning_close`: the markers around reasoning; both or neither.
    - `control_texts`: texts that must never come from a task or from a tool.
    - `call`: a completion that is one call. `call_close`: what ends a call.
    - `observation`: the user message that holds the result of a call. `repair`: one that rejects a call.

    Raises RenderError where only one reasoning marker is given, or a control text is empty.
    """

    reasoning_open: str = ""
    reasoning_close: str = ""
    control_texts: tuple[str, ...] = ()
    call: str = ""
    call_close: str = ""
    observation: str = ""
    repair: str = ""

    def __post_init__(self) -> None:
        if bool(self.reasoning_open) != bool(self.reasoning_close):
            raise RenderError(
                f"reasoning markers {self.reasoning_open!r}, {self.reasoning_close!r}: give both or neither"
            )
        if "" in self.control_texts:
            raise RenderError("a control text is empty: leave it out")

    def opens_in(self, text: str) -> bool:
        """True where `text` holds the opening reasoning marker."""
        return bool(self.reasoning_open) and self.reasoning_open in text

    def leaves_open(self, text: str, *, begins_open: bool = False) -> bool:
        """True where `text` ends inside reasoning; `begins_open` where it begins inside."""
        if not self.reasoning_open:
            return False
        opened, closed = text.rfind(self.reasoning_open), text.rfind(self.reasoning_close)
        return closed < opened if opened >= 0 else begins_open and closed < 0

    def after_reasoning(self, text: str) -> str:
        """What follows the last closing reasoning marker of `text`."""
        return text.rpartition(self.reasoning_close)[2] if self.reasoning_close else text
