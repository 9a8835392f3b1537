"""One inference server, looked at from its address to its latency; each check is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from statistics import median

import numpy as np

from atropos_agent.agent.tokens import resolve_tokens
from atropos_agent.config import PolicyConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.doctor.agreement import check_tokenizer
from atropos_agent.doctor.findings import LOOK, Check, Grade
from atropos_agent.doctor.template import check_certificate
from atropos_agent.errors import (
    AtroposAgentError,
    MalformedReply,
    ModelNotFound,
    RenderError,
    RequestTimeout,
    ServerRefused,
    ServerUnreachable,
)
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.policy.limits import within
from atropos_agent.policy.protocol import Capabilities, Prompt
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Completion, LogprobMode, Message, SamplingParams

CHECK_LIMIT_S = 20.0
ALONE, TOGETHER = 5, 16
FEW_TOKENS = 8
QUESTION: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say hello."},
)
TOKENIZER_NEEDED = "give the model's own with --tokenizer FOLDER_OR_NAME"
NO_RIGHT = ("answered 401", "answered 403")
UNREACHED = "start the server, or give its address as http://HOST:PORT/v1"
IDS_IN = {
    Wire.CHAT_IDS: "serve with vLLM, SGLang or llama.cpp, which take token ids, to render the prompts here",
    Wire.CHAT_LOGPROBS: "serve with vLLM, SGLang or llama.cpp for exact ids",
    Wire.TEXT: "serve with vLLM, SGLang or llama.cpp for ids; --agent.rescore=server if it scores prompts",
    Wire.CHAT: "serve with vLLM, SGLang or llama.cpp, or start it without a tool-call parser",
}


async def examine_server(config: PolicyConfig, policy: HttpPolicy) -> AsyncIterator[Check]:
    """All checks of the server behind `policy`, as they finish; they end early where it cannot be used."""
    first = await _bounded("server", _reach(policy))
    yield first
    if first.grade is Grade.BAD:
        return
    found = await policy.probe()
    yield _tier(found)
    yield _mode(found)
    yield _context(found)
    source = config.tokenizer or found.model
    try:
        loading = asyncio.to_thread(Renderer.load, source, marks=HERMES_MARKS)
        renderer = await within(CHECK_LIMIT_S, loading, f"the tokenizer {source!r}")
    except (RenderError, RequestTimeout) as error:
        yield Check("tokenizer", Grade.BAD, str(error), TOKENIZER_NEEDED)
        return
    yield await _bounded("tokenizer", check_tokenizer(policy, renderer, source))
    yield _stops(found, renderer)
    renderer = renderer.with_stop_ids(found.stop_ids)
    yield check_certificate(renderer.certificate, server_renders=not found.wire.takes_ids)
    yield _begins(renderer)
    yield await _bounded("completion", _completes(policy, renderer))
    for count in (1, TOGETHER):
        yield await _bounded(f"latency at {count}", _latency(policy, renderer, count))


async def _bounded(name: str, check: Awaitable[Check]) -> Check:
    """The check, or what stopped it."""
    try:
        return await within(CHECK_LIMIT_S, check, f"the check of the {name}")
    except RequestTimeout as error:
        return Check(name, Grade.BAD, f"it stalls: {error}", "look at the server's log; it may be loading")
    except ModelNotFound as error:
        return Check(name, Grade.BAD, str(error), "name the model with --model")
    except AtroposAgentError as error:
        return Check(name, Grade.BAD, f"{type(error).__name__}: {error}", _cure(error))


def _cure(error: AtroposAgentError) -> str:
    if isinstance(error, ServerUnreachable):
        return UNREACHED
    if isinstance(error, MalformedReply):
        return "give the address of an inference server: http://HOST:PORT/v1"
    no_right = isinstance(error, ServerRefused) and any(word in str(error) for word in NO_RIGHT)
    return "set ATROPOS_SERVER_API_KEY to the server's key" if no_right else LOOK


async def _reach(policy: HttpPolicy) -> Check:
    found = await policy.probe()
    others = len(found.models) - 1
    more = f" (and {others} more: {', '.join(found.models)})" if others > 0 else ""
    return Check("server", Grade.GOOD, f"{found.server} answers and serves {found.model}{more}")


def _tier(found: Capabilities) -> Check:
    wire = found.wire
    if wire.takes_ids:
        return Check("tokens", Grade.GOOD, f"{wire}: ids go in, sampled ids and logprobs come out")
    if wire is Wire.CHAT_IDS:
        text = f"{wire}: sampled ids come out, but the server renders the prompts itself"
    elif wire is Wire.CHAT_LOGPROBS:
        text = f"{wire}: ids are rebuilt from per-token entries, and the server renders the prompts itself"
    else:
        text = f"{wire}: text only, so ids are tokenised again and have no logprobs"
    return Check("tokens", Grade.LOSS, text, IDS_IN[wire])


def _mode(found: Capabilities) -> Check:
    if not found.wire.gives_ids:
        return Check("logprobs", Grade.UNKNOWN, "the server gives none")
    match found.logprob_mode:
        case LogprobMode.PROCESSED:
            text = "processed: of the distribution sampled from, exported at any temperature"
            return Check("logprobs", Grade.GOOD, text)
        case LogprobMode.RAW:
            text = (
                "raw: the model's own, exported at temperature 1 without truncation and absent otherwise "
                "(vLLM: --logprobs-mode processed_logprobs)"
            )
            return Check("logprobs", Grade.GOOD, text)
        case _:
            text = "of which distribution they are could not be found out"
            return Check("logprobs", Grade.LOSS, text, "keep temperature 1 without truncation")


def _context(found: Capabilities) -> Check:
    if found.context_length is None:
        act = "set agent.max_context_tokens"
        return Check("context", Grade.UNKNOWN, "the server does not tell its context length", act)
    return Check("context", Grade.GOOD, f"{found.context_length:,} tokens")


def _stops(found: Capabilities, renderer: Renderer) -> Check:
    """The policy must end its turns with what the template ends them with."""
    template = sorted(renderer.certificate.stop_ids)
    spelt = ", ".join(f"{i} {renderer.decode(np.array([i], np.int32))!r}" for i in template) or "plain text"
    if not found.stop_ids:
        return Check("end of turn", Grade.GOOD, f"the template's: {spelt}; the server does not tell its own")
    if template and not set(template) & set(found.stop_ids):
        text = f"the template ends a turn with {spelt}, the server with {list(found.stop_ids)}"
        return Check("end of turn", Grade.LOSS, text, "serve the model with the chat template's end of turn")
    return Check("end of turn", Grade.GOOD, f"the template's and the server's: {spelt}")


def _begins(renderer: Renderer) -> Check:
    """A tokenizer that adds a beginning of text to a template that writes one doubles it elsewhere."""
    ids = renderer.render(QUESTION).ids
    if len(ids) > 1 and ids[0] == ids[1]:
        text = f"the template begins with {renderer.decode(ids[:2])!r}, twice the same token"
        return Check("beginning", Grade.LOSS, text, "fix the chat template")
    return Check("beginning", Grade.GOOD, f"a prompt begins with {renderer.decode(ids[:1])!r}, once")


async def _completes(policy: HttpPolicy, renderer: Renderer) -> Check:
    completion = resolve_tokens(await _ask(policy, renderer, 4 * FEW_TOKENS), renderer)
    ids = 0 if completion.token_ids is None else len(completion.token_ids)
    noted = f"; noted: {', '.join(completion.notes)}" if completion.notes else ""
    text = f"{ids} tokens, {completion.provenance}, ended by {completion.finish_reason}{noted}"
    if "server_text_differs" in completion.notes:
        act = "give the tokenizer of the served model with --tokenizer"
        return Check("completion", Grade.BAD, f"the ids do not spell the server's text ({text})", act)
    counted, rendered = completion.usage_prompt_tokens, len(renderer.render(QUESTION).ids)
    if counted is not None and counted != rendered:
        finding = f"the server counts {counted} prompt tokens, the local template renders {rendered}"
        return Check(
            "completion", Grade.LOSS, finding, "use the server's own chat template here, with --tokenizer"
        )
    return Check("completion", Grade.GOOD, text)


async def _latency(policy: HttpPolicy, renderer: Renderer, count: int) -> Check:
    """Median seconds of a short completion, `count` in flight, and the tokens that came in that time."""
    tokens = 0

    async def timed() -> float:
        nonlocal tokens
        started = time.perf_counter()
        completion = await _ask(policy, renderer, FEW_TOKENS)
        tokens += completion.usage_completion_tokens or 0
        return time.perf_counter() - started

    started = time.perf_counter()
    if count == 1:
        taken = [await timed() for _ in range(ALONE)]
    else:
        taken = await asyncio.gather(*(timed() for _ in range(count)))
    spent_s = time.perf_counter() - started
    rate = f", {tokens / spent_s:,.0f} tokens/s" if tokens else ""
    text = f"{1000 * median(taken):.0f} ms for at most {FEW_TOKENS} tokens{rate}"
    return Check(f"latency at {count}", Grade.GOOD, text)


async def _ask(policy: HttpPolicy, renderer: Renderer, max_tokens: int) -> Completion:
    rendered = renderer.render(QUESTION)
    prompt = Prompt(QUESTION)
    prompt.extend(rendered.ids, rendered.text)
    seed = int(np.random.default_rng().integers(2**31))
    return await policy.complete(prompt, SamplingParams(max_tokens=max_tokens, seed=seed))
