"""Checks of a trajectory's messages: their form, and whether they belong to its tokens."""

from __future__ import annotations

from collections.abc import Iterator

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.rows import Row
from atropos_agent.lint.vocabulary import Vocabulary

BROKEN = "\ufffd"


def check_messages(row: Row, known: Vocabulary, spelled: str | None) -> Iterator[Finding]:
    """Messages that an Atropos API refuses, or that have other turns than the tokens. `spelled` is the text
    of the tokens, None where it is not known."""
    messages = row.messages
    if not isinstance(messages, list) or not messages:
        return
    for at, message in enumerate(messages):
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or "content" not in message
        ):
            text = f"message {at} has no role and content: the Atropos API refuses the whole group"
            yield Finding("message-malformed", text, row.index)
            return
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    if row.sequences == 1 and len(said) < (turns := _turns(row, known)):
        text = f"{len(said)} assistant messages for {turns} trained turns"
        yield Finding("messages-mismatch", text, row.index)
    elif said and isinstance(said[-1], str) and not _is_in(spelled, said[-1]):
        text = "the last assistant message is not in the decoded tokens: they belong to different rollouts"
        yield Finding("messages-mismatch", text, row.index)


def _turns(row: Row, known: Vocabulary) -> int:
    """Trained runs that end with an end of turn; a turn may have holes."""
    return sum(int(row.ids[end - 1]) in known.stop_ids for _, end in row.runs)


def _is_in(spelled: str | None, content: str) -> bool:
    # Broken characters decode differently in context, so such a text cannot be compared.
    return spelled is None or BROKEN in content or content.strip() in spelled
