"""What is certain about a chat template: tested on probe conversations, by differential rendering and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from atropos_agent.errors import RenderError
from atropos_agent.renderer.branching import UNPREDICTABLE, Branching, find_branching
from atropos_agent.renderer.close import Close, find_close, stop_ids
from atropos_agent.renderer.habits import Habits, find_habits
from atropos_agent.renderer.joint import Suffix
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.probes import (
    CORE_FOLLOWINGS,
    REASON,
    Following,
    Probe,
    assistant,
    followings,
    observation_of,
    probes,
    user,
)
from atropos_agent.renderer.runtime_check import exchanges_of, first_missing
from atropos_agent.renderer.template import QUESTION, SENTINELS, ChatTemplate
from atropos_agent.renderer.tokens import Tokens
from atropos_agent.renderer.tool_bridge import AFTER_CALLS, AFTER_TEXT, ToolBridge, find_tool_bridge
from atropos_agent.renderer.turns import Turns, calls_of
from atropos_agent.trajectory import Message, text_of

SHOWN_PER_KIND = 3
# Ends of a text that a tokenizer may merge with the first characters of the close.
ENDINGS = ("done", "done.", "x ", "x\n", "x\n\n", "tab\t", "{}", "<", "7", "é", "漢字", "🙂")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What holds for one chat template, tokenizer, dialect and set of template arguments (`key`, their hash).

    - `bridge`: what follows an assistant's text does not depend on that text, on the history or on the turn.
    - `history_stable`: a conversation rendered as a whole is what was appended turn by turn; text on every
      probe, ids wherever the assistant's text joins its prompt canonically.
    - `joint`: canonical where encoding the suffix alone gives the ids it has in context.
    - `close_text`, `close_ids`: what the template writes after an assistant's text up to and including the
      end of the turn; empty where the next header ends it. `stop_ids`: what a policy ends its turn with.
    - `rewrites_observations`: the template later changes what stands between earlier assistant texts.
    - `prompt_in_history`: before a plain text and an observation, the prompt it answered is shown as it was.
    - `habits`: what the template does that no message asks for.
    - `tool_bridge`: where tool messages may follow, certified on probes of their own.
    - `branching`: where a new rendering of history begins another training sequence.
    - `reasons`: every refusal, each beginning with what is refused: bridge, history, joint or shape (a kind
      of conversation).
    """

    key: str
    bridge: bool
    history_stable: bool
    opens_reasoning: bool
    joint: Literal["canonical", "non-canonical"]
    close_text: str
    close_ids: tuple[int, ...]
    stop_ids: frozenset[int]
    trims: bool
    strips_reasoning: bool
    rewrites_observations: bool
    prompt_in_history: bool
    habits: Habits
    tool_bridge: ToolBridge
    branching: Branching
    reasons: tuple[str, ...]
    probes: int

    def close_of(self, answer: Message) -> str:
        """What ends the turn `answer`; empty where the next header does."""
        return self.tool_bridge.calls_close if calls_of(answer) else self.close_text

    def refusal(self, answer: Message, following: Sequence[Message]) -> str:
        """Why it is not certified that `following` may be appended to the tokens sampled for `answer`; empty
        where it is."""
        results = any(message["role"] == "tool" for message in following)
        if calls_of(answer):
            if not results:
                return "the calls of the last assistant message have no results"
            certified, kind = self.tool_bridge.after_calls, AFTER_CALLS
        elif results:
            certified, kind = self.tool_bridge.after_text, AFTER_TEXT
        else:
            return "" if self.bridge else "; ".join(self.reasons)
        return "" if certified else "; ".join(r for r in self.tool_bridge.reasons if r.startswith(kind))


@dataclass(slots=True)
class _Findings:
    """The findings of the probes so far."""

    probes: int = 0
    trims: bool = False
    strips_reasoning: bool = False
    rewrites_observations: bool = False
    joints: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    refused: Counter[str] = field(default_factory=Counter[str])
    reasons: list[str] = field(default_factory=list[str])

    def refuse(self, kind: str, detail: str) -> None:
        self.refused[kind] += 1
        if self.refused[kind] <= SHOWN_PER_KIND:
            self.reasons.append(f"{kind}: {detail}")

    def summary(self) -> tuple[str, ...]:
        hidden = {kind: count - SHOWN_PER_KIND for kind, count in self.refused.items()}
        more = [f"{kind}: {count} more" for kind, count in hidden.items() if count > 0]
        return (*self.reasons, *more)


def certify(template: ChatTemplate, tokens: Tokens, marks: Marks, key: str) -> Certificate:
    """Try `template` on all probes. Never raises RenderError: what fails is a reason."""
    template, findings = template.remembering(), _Findings()
    turns, named = Turns(template, marks), followings(tokens.control_tokens, marks)
    suffixes = _suffixes(template, named, findings)
    if "bridge" not in findings.refused:
        for probe in probes(tokens.control_tokens, marks):
            if (suffix := suffixes.get(probe.following_name)) is not None:
                _try(turns, tokens, probe, suffix, findings)
    close = find_close(template, tokens, suffixes)
    endings = (*ENDINGS, marks.reasoning_close) if marks.reasoning_close else ENDINGS
    _try_joint(tokens, suffixes, close, endings, findings)
    refused = findings.refused.keys()
    return Certificate(
        key=key,
        bridge="bridge" not in refused,
        history_stable=not refused & {"bridge", "history", "joint"},
        opens_reasoning=_opens_reasoning(template, marks),
        joint="non-canonical" if "joint" in refused else "canonical",
        close_text=close.text,
        close_ids=close.ids,
        stop_ids=stop_ids(close, tokens, suffixes),
        trims=findings.trims,
        strips_reasoning=findings.strips_reasoning,
        rewrites_observations=findings.rewrites_observations,
        prompt_in_history=_shows_prompt(template, marks),
        habits=find_habits(template, tokens, close, marks),
        tool_bridge=find_tool_bridge(template, tokens, close.text, marks),
        branching=find_branching(template, named, marks) if "bridge" not in refused else UNPREDICTABLE,
        reasons=findings.summary(),
        probes=findings.probes,
    )


def _opens_reasoning(template: ChatTemplate, marks: Marks) -> bool:
    try:
        prompt = template.text([QUESTION]).rpartition(text_of(QUESTION))[2]
    except RenderError:
        return False
    return marks.leaves_open(prompt)


def _shows_prompt(template: ChatTemplate, marks: Marks) -> bool:
    mark = SENTINELS[0]
    try:
        later = template.text([QUESTION, assistant(mark), user(observation_of(marks))])
        return later.startswith(template.text([QUESTION]) + mark)
    except RenderError:
        return False


def _suffixes(template: ChatTemplate, named: Mapping[str, Following], findings: _Findings) -> dict[str, str]:
    """What comes after an assistant's text in the shortest conversation, by name of what follows."""
    suffixes: dict[str, str] = {}
    for name, following in named.items():
        findings.probes += len(SENTINELS)
        try:
            first, *others = [template.after_sentinel(following, mark) for mark in SENTINELS]
        except RenderError as error:
            findings.refuse("bridge" if name in CORE_FOLLOWINGS else "shape", f"{name}: {error}")
            continue
        if any(other != first for other in others):
            findings.refuse(
                "bridge", f"what follows the assistant's text depends on that text, before {name}"
            )
        suffixes[name] = first
    return suffixes


def _try(turns: Turns, tokens: Tokens, probe: Probe, suffix: str, findings: _Findings) -> None:
    """Render one probe with each sentinel and compare it with the shortest conversation's `suffix`."""
    shown, template = [], turns.template
    for mark in SENTINELS:
        text = f"{probe.before}{mark}{probe.after}"
        findings.probes += 1
        try:
            prompt = template.text(probe.history)
            rendered = template.text([*probe.history, assistant(text), *probe.following])
        except RenderError as error:
            findings.refuse("shape" if probe.shape else "bridge", f"{probe.shape or probe.name}: {error}")
            return
        if not _bridged(rendered, mark, probe, suffix, turns.marks):
            findings.refuse("bridge", f"what follows the assistant's text is another for {probe.name}")
            return
        shown.append((prompt, rendered, text))
    prompt, rendered, text = shown[0]
    if first_missing(turns, rendered, probe.history, exchanges_of(probe.history)) is not None:
        findings.rewrites_observations = True
        findings.refuse("history", f"earlier observations are rewritten, for {probe.name}")
        return
    _try_history(tokens, prompt, rendered, text, suffix=suffix, name=probe.name, findings=findings)


def _bridged(rendered: str, mark: str, probe: Probe, suffix: str, marks: Marks) -> bool:
    _, found, tail = rendered.partition(mark)
    if not found:  # a template that strips old reasoning also drops a mark inside an unclosed block
        return marks.opens_in(probe.before) and rendered.endswith(suffix)
    return mark not in tail and tail in (probe.after + suffix, probe.after.rstrip() + suffix)


def _try_history(
    tokens: Tokens, prompt: str, rendered: str, text: str, *, suffix: str, name: str, findings: _Findings
) -> None:
    """Compare the rendered whole with what was appended; if they differ, record what the template changed."""
    if rendered == prompt + text + suffix:
        joint = text, suffix
        if joint not in findings.joints and not _splits(tokens, text, suffix):
            findings.refuse("joint", f"the close is tokenised differently in context, for {name}")
        findings.joints.add(joint)
    elif rendered.count(REASON) < (prompt + text).count(REASON):
        findings.strips_reasoning = True
        findings.refuse("history", f"reasoning is stripped, for {name}")
    elif not rendered.endswith(text + suffix):
        trimmed = rendered.endswith(text.strip() + suffix)
        findings.trims |= trimmed
        change = "white space is trimmed" if trimmed else "the assistant's text is rewritten"
        findings.refuse("history", f"{change}, for {name}")
    else:
        findings.refuse("history", f"the generation prompt is not what history shows later, for {name}")


def _splits(tokens: Tokens, text: str, suffix: str) -> bool:
    apart = np.concatenate([tokens.encode(text), tokens.encode(suffix)])
    return np.array_equal(tokens.encode(text + suffix), apart)


def _try_joint(
    tokens: Tokens,
    suffixes: Mapping[str, str],
    close: Close,
    endings: Sequence[str],
    findings: _Findings,
) -> None:
    for name, suffix in suffixes.items():
        if Suffix(suffix, close.text, tokens).ids[: len(close.ids)].tolist() != list(close.ids):
            findings.refuse("joint", f"the close is tokenised together with what follows, before {name}")
        for ending in endings:
            if not _splits(tokens, ending, suffix):
                findings.refuse("joint", f"{ending!r} and the close are tokenised together, before {name}")
