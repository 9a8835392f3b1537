"""Where a template rewrites earlier text, so that a prompt does not extend the previous one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from atropos_agent.errors import RenderError
from atropos_agent.renderer.marks import Marks
from atropos_agent.renderer.probes import CORE_FOLLOWINGS, OBSERVED, Following, assistant, spoken, texts
from atropos_agent.renderer.template import QUESTION, ChatTemplate
from atropos_agent.trajectory import Message

LONG = 8
"""Turns of the long conversations on which a prediction is checked."""


@dataclass(frozen=True, slots=True)
class Branching:
    """When a new rendering of history differs from what was shown and sampled.

    Kinds of text are named as in `probes.texts` (`kinds` of them were tried), kinds of what follows as in
    `probes.CORE_FOLLOWINGS`. `at_once`, (text, following): the turn, or the prompt it answered, is rewritten
    as soon as `following` is appended. `later`, (text, following, then): the turn was kept at first, and is
    rewritten when `then` follows a later turn. `predictable` is False without a bridge, and where rewriting
    depends on anything else, e.g. the age of a turn.
    """

    at_once: frozenset[tuple[str, str]]
    later: frozenset[tuple[str, str, str]]
    predictable: bool
    kinds: int

    def sequences(self, turns: Sequence[tuple[str, str | None]]) -> int | None:
        """The number of training sequences of a conversation in `history: template`.

        `turns` are kinds of text and of what follows, None where the conversation ends. Returns None if
        the number cannot be predicted.
        """
        return 1 + sum(self._breaks(turns)) if self.predictable else None

    def _breaks(self, turns: Sequence[tuple[str, str | None]]) -> Iterator[bool]:
        """For each turn but the last, whether the prompt after it begins another sequence."""
        kept: list[tuple[str, str]] = []
        for text, following in turns:
            if following is None:
                return
            rewritten = {one for one in kept if (*one, following) in self.later}
            yield bool(rewritten) or (text, following) in self.at_once
            kept = [*(one for one in kept if one not in rewritten), (text, following)]

    def __str__(self) -> str:
        """In words: after which texts, and before what, history is rewritten."""
        if not self.predictable:
            return "not predictable"
        if not self.at_once | self.later:
            return "never"
        names = sorted({text for text, *_ in self.at_once | self.later})
        if len(self.at_once) == self.kinds * len(CORE_FOLLOWINGS):
            return "after every turn"
        whens = sorted({rule[-1] for rule in self.at_once | self.later})
        return f"after {', '.join(names)}; before {', '.join(whens)}"


UNPREDICTABLE = Branching(frozenset(), frozenset(), predictable=False, kinds=0)


def find_branching(template: ChatTemplate, named: Mapping[str, Following], marks: Marks) -> Branching:
    """Try every kind of text with every kind of what follows, and with what follows a later turn."""
    followings = {name: named[name] for name in CORE_FOLLOWINGS}
    said = {kind: spoken(around) for kind, around in texts(marks).items()}
    at_once = frozenset(
        (kind, name)
        for (kind, text), (name, following) in product(said.items(), followings.items())
        if _rewrites(template, [QUESTION], text, following)
    )
    later = frozenset(
        (kind, name, then)
        for (kind, text), (name, first), (then, last) in product(
            said.items(), followings.items(), followings.items()
        )
        if _rewrites_later(template, [QUESTION, assistant(text), *first], said["plain text"], last)
    )
    found = Branching(at_once, later, predictable=True, kinds=len(said))
    checked = all(_agrees(template, found, turns, said, followings) for turns in _long_conversations(said))
    return replace(found, predictable=checked)


def _rewrites(
    template: ChatTemplate, history: Sequence[Message], text: str, following: Sequence[Message]
) -> bool:
    """True where appending `following` changes the prompt or the text that answered it."""
    try:
        after = template.after_sentinel(following)
        shown = template.text(history) + text + after
        return template.text([*history, assistant(text), *following]) != shown
    except RenderError:
        return True


def _rewrites_later(
    template: ChatTemplate, history: Sequence[Message], text: str, following: Sequence[Message]
) -> bool:
    """True where `history` is shown differently once a plain `text` and `following` are appended."""
    try:
        rendered = template.text([*history, assistant(text), *following])
        return not rendered.startswith(template.settled(history))
    except RenderError:
        return True


def _long_conversations(said: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Tool calls with and without reasoning, and with a second question in the middle."""
    calling = {"a tool call", "reasoning and a tool call"}.intersection(said) or {"plain text"}
    for kind in sorted(calling):
        turns = [(kind, OBSERVED)] * LONG
        yield turns
        yield [*turns[: LONG // 2], (kind, "a real user turn"), *turns[: LONG // 2]]


def _agrees(
    template: ChatTemplate,
    found: Branching,
    turns: Sequence[tuple[str, str]],
    said: Mapping[str, str],
    followings: Mapping[str, Following],
) -> bool:
    talk: list[Message] = [QUESTION]
    seen = []
    for kind, name in turns:
        seen.append(_rewrites(template, talk, said[kind], followings[name]))
        talk += [assistant(said[kind]), *followings[name]]
    return 1 + sum(seen) == found.sequences(turns)
