"""The conversation of one run, as messages and as tokens, and the way from completion to next prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from atropos_agent.agent.tracker import Tracker
from atropos_agent.errors import ConfigError, RenderError
from atropos_agent.policy.protocol import Capabilities
from atropos_agent.renderer import (
    BRIDGE_MISMATCH,
    FOREIGN_CLOSE,
    REASONING_CLOSED,
    Bridge,
    Renderer,
)
from atropos_agent.renderer.runtime_check import last_assistant
from atropos_agent.trajectory import (
    BreakKind,
    Completion,
    ContentPart,
    LogprobProvenance,
    Message,
    StepSpan,
    TextPart,
    TokenIds,
    UserMessage,
    completed,
    text_of,
)


class Conversation:
    """The messages and tokens that a policy was shown and has sampled.

    `mode` is `AgentConfig.history`: `append` extends the prompt and the sampled tokens, `template` follows
    the chat template's rendering of the messages. `notes` are words that the result counts.
    """

    def __init__(
        self, messages: Sequence[Message], renderer: Renderer | None, mode: Literal["append", "template"]
    ) -> None:
        self.messages: list[Message] = list(messages)
        self.renderer: Renderer | None = renderer
        self.tracker: Tracker = Tracker(self.messages)
        self.notes: list[str] = []
        self._by_server = False  # True: the server renders the prompts
        self._follows = mode == "template"
        self._shown = ""  # the template's rendering of the current prompt
        self._bridged = 0  # messages up to and including the last bridge
        self._capabilities: Capabilities | None = None
        self._checked = 0  # messages that `check` has seen

    def open(self, capabilities: Capabilities) -> None:
        """Render the opening, all of `messages` so far. Raises ConfigError, RenderError.

        Where a server renders the prompts and no bridge is certified, the template is followed in both modes.
        """
        self._capabilities = capabilities
        wire, renderer = capabilities.wire, self.renderer
        if renderer is None:
            if wire.takes_ids or wire.takes_text:
                raise ConfigError(f"{wire} prompts need a tokenizer: pass `tokenizer`")
            return
        if capabilities.stop_ids:
            self.renderer = renderer = renderer.with_stop_ids(capabilities.stop_ids)
        self._by_server = not (wire.takes_ids or wire.takes_text)
        self._follows |= self._by_server and not renderer.certificate.bridge
        rendered = renderer.render(self.messages)
        self.tracker = Tracker(self.messages, rendered.ids, rendered.text)
        self._shown = rendered.text

    def add_completion(self, number: int, completion: Completion) -> tuple[int, StepSpan] | None:
        """Append the completion of step `number`. Returns the index of its sequence and its span there, or
        None if its tokens are not known."""
        placed, ids, renderer = None, completion.token_ids, self.renderer
        if ids is not None and len(self.tracker.prompt):
            raw = completion.text if renderer is None else renderer.decode
            index = self.tracker.sequence_index
            placed = index, self.tracker.add_completion(number, completion, raw)
        self.notes += completion.notes
        self.messages.append(completed({"role": "assistant", "content": completion.text}, completion))
        return placed

    def with_its_prompt(self, completion: Completion) -> Completion:
        """Compare our prompt with what the server reports of the prompt that it rendered itself.

        Reported ids are adopted. If the server reports only a count and it differs from ours, history was
        rewritten: our new rendering is adopted if it has that count; otherwise the logprobs belong to a
        prompt that we do not know, and are dropped.
        """
        if completion.prompt_token_ids is not None:
            self.tracker.follow_server_prompt(completion.prompt_token_ids, self._kind_of)
            return completion
        seen, known = completion.usage_prompt_tokens, len(self.tracker.prompt)
        wire = None if self._capabilities is None else self._capabilities.wire
        if wire is None or wire.takes_ids or seen is None or not known or seen == known:
            return completion
        rendered = None if self.renderer is None or wire.takes_text else self.renderer.render(self.messages)
        if rendered is not None and len(rendered.ids) == seen:
            self.tracker.follow_server_prompt(rendered.ids, self._kind_of)
            self._shown = rendered.text
            return _noted(completion, "prompt_rendered_anew")
        without = replace(completion, logprobs=None, logprob_provenance=LogprobProvenance.ABSENT)
        return _noted(without, "prompt_differs")

    def _kind_of(self, ids: TokenIds) -> BreakKind:
        """Why the server's prompt `ids` does not begin with ours."""
        if self.renderer is None:
            return BreakKind.OTHER
        text = self.renderer.decode(ids)
        if text.startswith(self.renderer.decode(self.tracker.prompt.ids)):
            return BreakKind.RETOKENISATION
        try:
            own = self.renderer.text(self.messages)
        except RenderError:
            return BreakKind.OTHER
        return BreakKind.TEMPLATE if text == own else BreakKind.OTHER

    def add_following(self, following: Sequence[Message], completion: Completion, step_number: int) -> None:
        """Append the messages that answer the last completion, and what the template writes around them."""
        self.messages += following
        ids, renderer = completion.token_ids, self.renderer
        if renderer is None or ids is None or not len(self.tracker.prompt):
            return
        if completion.prompt_token_ids is not None:
            # The server reports the ids of its prompts: the next one is adopted, so no bridge is needed.
            if renderer.is_cut_in_reasoning(ids, completion.finish_reason):
                self._close_reasoning(renderer)
        elif self._follows:
            self._follow_template(renderer, ids, completion)
        else:
            self._append(renderer, ids, completion, step_number)

    def check(self) -> None:
        """Compare every bridge so far with the template's rendering of the whole. Raises BridgeMismatch."""
        if self.renderer is None or self._bridged <= self._checked or BRIDGE_MISMATCH in self.notes:
            return
        self._checked = self._bridged
        self.notes += self.renderer.check_bridges(self.messages[: self._bridged])

    def _append(self, renderer: Renderer, ids: TokenIds, completion: Completion, step_number: int) -> None:
        bridge = renderer.bridge(self.messages, ids, finish=completion.finish_reason, turn=step_number)
        self._bridged = len(self.messages)
        if REASONING_CLOSED in bridge.notes:
            self._close_reasoning(renderer)
        self._cross(renderer, bridge)

    def _follow_template(self, renderer: Renderer, ids: TokenIds, completion: Completion) -> None:
        found = renderer.continuation(self._shown, self.messages, ids, finish=completion.finish_reason)
        if found.reasoning_closed:
            self._close_reasoning(renderer)
        self._shown = found.text
        self._cross(renderer, found.bridge)

    def _cross(self, renderer: Renderer, bridge: Bridge | None) -> None:
        """Append `bridge`. Begin a new sequence if there is none, or if the server renders the prompts and
        a stop token other than the template's was sampled: the server cannot know it and write it again."""
        if bridge is None or (self._by_server and FOREIGN_CLOSE in bridge.notes):
            self._shown = renderer.text(self.messages)
            self.tracker.begin(renderer.encode(self._shown), self._shown, BreakKind.TEMPLATE)
        else:
            self.notes += [note for note in bridge.notes if note != REASONING_CLOSED]
            self.tracker.add_bridge(bridge)

    def _close_reasoning(self, renderer: Renderer) -> None:
        """Add the closing reasoning tag to the message of a completion that was cut inside its reasoning."""
        self.notes.append(REASONING_CLOSED)
        last = last_assistant(self.messages)
        message = self.messages[last]
        if "reasoning" in message:
            return  # kept apart from the text: the template closes it
        self.messages[last] = {
            "role": "assistant",
            "content": text_of(message) + renderer.marks.reasoning_close,
        }


def _noted(completion: Completion, note: str) -> Completion:
    """`completion` with `note`, added once: a resumed run handles its recorded completions again."""
    known = note in completion.notes
    return completion if known else replace(completion, notes=(*completion.notes, note))


def neutral(message: str | UserMessage, renderer: Renderer | None) -> UserMessage:
    """A user's message in which no text encodes to a control token."""
    content = message if isinstance(message, str) else message["content"]
    if renderer is None:
        return {"role": "user", "content": content}
    if isinstance(content, str):
        return {"role": "user", "content": renderer.neutralise(content)}
    parts = list[ContentPart]()
    for part in content:
        if part["type"] == "text":
            part = TextPart(type="text", text=renderer.neutralise(part["text"]))
        parts.append(part)
    return {"role": "user", "content": parts}


def joined(first: UserMessage, second: UserMessage) -> UserMessage:
    """Both messages as one, because templates may require that roles alternate."""
    one, other = first["content"], second["content"]
    if isinstance(one, str) and isinstance(other, str):
        return {"role": "user", "content": f"{one}\n{other}"}
    return {"role": "user", "content": [*_parts(one), TextPart(type="text", text="\n"), *_parts(other)]}


def _parts(content: str | Sequence[ContentPart]) -> Sequence[ContentPart]:
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content
