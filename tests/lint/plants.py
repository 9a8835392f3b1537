"""Defects, each planted by a function into an otherwise clean group; what must be found, and where.

A plant changes row ROW of the group (or the whole group) and gives the findings that it must lead to, as
(code, trajectory, token): exactly those, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TypeAlias

from tests.lint.clean_run import shipped_renderer

Expected: TypeAlias = "list[tuple[str, int | None, int | None]]"
Plant: TypeAlias = "Callable[[dict], Expected]"

ROW = 3
RENDERER = shipped_renderer()
(STOP,) = RENDERER.certificate.stop_ids
NAN = float("nan")
TOKEN_COLUMNS = ("tokens", "masks", "inference_logprobs")
ROW_COLUMNS = (*TOKEN_COLUMNS, "scores", "messages", "overrides")


def runs(group) -> list[tuple[int, int]]:
    """[start, end) of the trained runs of ROW."""
    flags = [mask != -100 for mask in group["masks"][ROW]]
    found, at = [], 0
    for trained, members in groupby(flags):
        size = len(list(members))
        if trained:
            found.append((at, at + size))
        at += size
    return found


def insert(group, at, token, mask, logprob):
    for column, value in zip(TOKEN_COLUMNS, (token, mask, logprob), strict=True):
        group[column][ROW].insert(at, value)


def delete(group, start, end):
    for column in TOKEN_COLUMNS:
        del group[column][ROW][start:end]


def set_trained(group, start, end):
    group["masks"][ROW][start:end] = group["tokens"][ROW][start:end]
    group["inference_logprobs"][ROW][start:end] = [-0.25] * (end - start)


def with_logprob(value, code):
    def plant(group) -> Expected:
        at = runs(group)[1][0] + 2
        group["inference_logprobs"][ROW][at] = value
        return [(code, ROW, at)]

    return plant


def short_column(name):
    def plant(group) -> Expected:
        group[name] = [*(group[name] or [[]] * len(group["tokens"]))][:-1]
        return [("columns-differ", None, None)]

    return plant


def short_mask(group) -> Expected:
    group["masks"][ROW].pop()
    return [("rows-differ", ROW, len(group["masks"][ROW]))]


def short_logprobs(group) -> Expected:
    group["inference_logprobs"][ROW].pop()
    return [("rows-differ", ROW, len(group["inference_logprobs"][ROW]))]


def long_advantages(group) -> Expected:
    group["advantages"] = [[0.5] * len(ids) for ids in group["tokens"]]
    group["advantages"][ROW].append(0.5)
    return [("rows-differ", ROW, len(group["tokens"][ROW]))]


def mask_of_zeros_and_ones(group) -> Expected:
    group["masks"][ROW] = [int(mask != -100) for mask in group["masks"][ROW]]
    return [("mask-binary", ROW, 0)]


def mask_of_booleans(group) -> Expected:
    group["masks"][ROW] = [mask != -100 for mask in group["masks"][ROW]]
    return [("mask-binary", ROW, 0)]


def inverted_mask(group) -> Expected:
    pairs = zip(group["masks"][ROW], group["tokens"][ROW], strict=True)
    group["masks"][ROW] = [token if mask == -100 else -100 for mask, token in pairs]
    return [("mask-inverted", ROW, 0)]


def mask_of_another_token(group) -> Expected:
    at = runs(group)[0][0] + 1
    group["masks"][ROW][at] += 1
    return [("mask-foreign", ROW, at)]


def nothing_trained(group) -> Expected:
    group["masks"][ROW] = [-100] * len(group["tokens"][ROW])
    return [("nothing-trained", ROW, None)]


def everything_trained(group) -> Expected:
    set_trained(group, 0, len(group["tokens"][ROW]))
    return [("everything-trained", ROW, 0)]


def doubled_end_of_turn(group) -> Expected:
    end = runs(group)[0][1]
    insert(group, end, STOP, -100, 1.0)
    return [("end-of-turn-doubled", ROW, end)]


def missing_end_of_turn(group) -> Expected:
    end = runs(group)[1][1]
    delete(group, end - 1, end)
    return [("end-of-turn-missing", ROW, end - 1)]


def untrained_end_of_turn(group) -> Expected:
    at = runs(group)[1][1] - 1
    group["masks"][ROW][at], group["inference_logprobs"][ROW][at] = -100, 1.0
    return [("end-of-turn-untrained", ROW, at)]


def observation_trained_with_its_header(group) -> Expected:
    (_, end), (begin, _) = runs(group)[:2]
    set_trained(group, end, begin)
    return [("observation-trained", ROW, end)]


def observation_text_trained(group) -> Expected:
    (_, end), (begin, _) = runs(group)[1:3]
    set_trained(group, end + 4, begin - 5)
    return [("observation-trained", ROW, end + 4)]


def fallback_zeros(group) -> Expected:
    for start, end in runs(group):
        group["inference_logprobs"][ROW][start:end] = [0.0] * (end - start)
    longest = max(runs(group), key=lambda run: run[1] - run[0])
    return [("logprob-zeros", ROW, longest[0])]


def padded_with_ones(group) -> Expected:
    start, end = runs(group)[-1]
    group["inference_logprobs"][ROW][start + 1 : end] = [1.0] * (end - start - 1)
    return [("logprob-ones", ROW, start + 1)]


def nan_logprob(group) -> Expected:
    return [("nan-literal", None, None), *with_logprob(NAN, "logprob-not-finite")(group)]


def infinite_logprob(group) -> Expected:
    return [("nan-literal", None, None), *with_logprob(float("-inf"), "logprob-not-finite")(group)]


def no_logprobs(group) -> Expected:
    del group["inference_logprobs"]
    return [("logprobs-absent", None, None)]


def nan_score(group) -> Expected:
    group["scores"][ROW] = NAN
    return [("nan-literal", None, None), ("score-not-finite", ROW, None)]


def no_score(group) -> Expected:
    group["scores"][ROW] = None
    return [("score-not-finite", ROW, None)]


def infinite_advantage(group) -> Expected:
    group["advantages"] = [[0.5] * len(ids) for ids in group["tokens"]]
    group["advantages"][ROW][2] = float("inf")
    return [("nan-literal", None, None), ("advantage-not-finite", ROW, 2)]


def no_tokens(group) -> Expected:
    delete(group, 0, len(group["tokens"][ROW]))
    return [("empty-trajectory", ROW, None)]


def token_of_text(group) -> Expected:
    group["tokens"][ROW][1] = "<|im_start|>"
    return [("values-malformed", ROW, 1)]


def placeholder_tokens(group) -> Expected:
    group["tokens"][ROW] = list(range(128))
    group["masks"][ROW] = [-100] * 64 + list(range(64, 128))
    group["inference_logprobs"][ROW] = [-0.5] * 128
    return [("placeholder-tokens", ROW, 0)]


def negative_id(group) -> Expected:
    group["tokens"][ROW][2] = -5
    return [("id-negative", ROW, 2)]


def id_of_another_tokenizer(group) -> Expected:
    group["tokens"][ROW][2] = RENDERER.vocabulary_size
    return [("id-outside-vocabulary", ROW, 2)]


def drift(group) -> Expected:
    """One sampled token becomes the tokens of its characters."""
    start, end = runs(group)[-1]
    for at in range(start, end):
        text = RENDERER.token_bytes([group["tokens"][ROW][at]])[0]
        pieces = RENDERER.ids_from_bytes([bytes([byte]) for byte in text])
        if len(text) > 1 and pieces is not None and group["tokens"][ROW][at] != STOP:
            delete(group, at, at + 1)
            for offset, piece in enumerate(pieces.tolist()):
                insert(group, at + offset, piece, piece, -0.5)
            return [("decode-encode-drift", ROW, at)]
    raise AssertionError("no token to split")


def cut_without_a_word(group) -> Expected:
    start, end = runs(group)[-1]
    delete(group, end - 2, end)
    left = group["tokens"][ROW][start:]
    group["messages"][ROW][-1]["content"] = b"".join(RENDERER.token_bytes(left)).decode()
    return [("truncated-unflagged", ROW, end - 3)]


def equal_scores(group) -> Expected:
    group["scores"] = [1.0] * len(group["scores"])
    return [("zero-variance", None, None)]


def group_of_one(group) -> Expected:
    for name in ROW_COLUMNS:
        del group[name][1:]
    return [("group-of-one", None, None)]


def small_group(group) -> Expected:
    for name in ROW_COLUMNS:
        del group[name][5:]
    return [("group-size-differs", None, None)]


def clone(group) -> Expected:
    for name in ROW_COLUMNS:
        group[name][ROW + 1] = group[name][ROW]
    group["scores"][ROW + 1] = 1.0 - group["scores"][ROW]
    return [("duplicate-in-group", ROW + 1, None)]


def message_without_role(group) -> Expected:
    del group["messages"][ROW][1]["role"]
    return [("message-malformed", ROW, None)]


def messages_of_another(group) -> Expected:
    group["messages"][ROW][-1] = {"role": "assistant", "content": "said by nobody here"}
    return [("messages-mismatch", ROW, None)]


def messages_of_the_last_turn(group) -> Expected:
    group["messages"][ROW] = [*group["messages"][ROW][:2], group["messages"][ROW][-1]]
    return [("messages-mismatch", ROW, None)]


def claims_sampled_logprobs(group) -> Expected:
    group["overrides"][ROW]["managed_metadata"]["provenance"][0] = "retokenized"
    return [("retokenized-with-logprobs", ROW, None)]


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        short_mask,
        short_logprobs,
        long_advantages,
        mask_of_zeros_and_ones,
        mask_of_booleans,
        inverted_mask,
        mask_of_another_token,
        nothing_trained,
        everything_trained,
        doubled_end_of_turn,
        missing_end_of_turn,
        untrained_end_of_turn,
        observation_trained_with_its_header,
        observation_text_trained,
        fallback_zeros,
        padded_with_ones,
        nan_logprob,
        infinite_logprob,
        no_logprobs,
        nan_score,
        no_score,
        infinite_advantage,
        no_tokens,
        token_of_text,
        placeholder_tokens,
        negative_id,
        id_of_another_tokenizer,
        drift,
        cut_without_a_word,
        equal_scores,
        group_of_one,
        small_group,
        clone,
        message_without_role,
        messages_of_another,
        messages_of_the_last_turn,
        claims_sampled_logprobs,
    )
} | {
    "positive_logprob": with_logprob(0.3, "logprob-positive"),
    "sentinel_logprob": with_logprob(-9999.0, "logprob-sentinel"),
    "null_logprob": with_logprob(None, "logprob-null"),
    "text_logprob": lambda group: [
        (code, row, None) for code, row, _ in with_logprob("-0.5", "values-malformed")(group)
    ],
    **{f"short_{name}": short_column(name) for name in (*ROW_COLUMNS[1:], "advantages")},
}
