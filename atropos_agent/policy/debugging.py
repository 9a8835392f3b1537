"""The output of the debug environment variables: request summary, full JSON, saved file, response."""

from __future__ import annotations

import logging
import os
import shlex
import time
import uuid
from collections.abc import Collection, Mapping
from urllib.parse import quote

import orjson

from atropos_agent.config import DebugSettings
from atropos_agent.policy.protocol import SESSION_HEADER, RequestInfo
from atropos_agent.telemetry import Entry, Heartbeat, debug_logger, redact

logger: logging.Logger = logging.getLogger(__name__)

SHOWN_CHARACTERS = 200_000
ID_KEYS = ("prompt", "input_ids")


def debug_settings(given: DebugSettings | None) -> DebugSettings:
    """`given`, else the settings from the environment variables, read now. Raises ConfigError."""
    return DebugSettings.from_environ() if given is None else given


def heartbeat(settings: DebugSettings, entry: Entry) -> Heartbeat:
    """A heartbeat for one wait, silent where `wait_every_s` is unset."""
    beats = settings.wait_every_s is not None
    return Heartbeat(debug_logger(__name__) if beats else logger, entry, settings.wait_every_s)


class RequestDebugger:
    """Logs requests and responses according to `settings`; `secrets` never appear in the log."""

    def __init__(self, settings: DebugSettings, secrets: Collection[str]) -> None:
        self.settings = settings
        self._secrets = tuple(secrets)
        self.is_on: bool = settings.debug_request or settings.debug_response
        self._logger = debug_logger(__name__) if self.is_on else logger

    def request(self, url: str, body: bytes, request: RequestInfo) -> None:
        """Log and save one request, if the settings ask for it."""
        if not self.settings.debug_request:
            return
        payload = orjson.loads(body)
        self._logger.info(
            "request %s step %d: keys=%s n=%s max_tokens=%s temperature=%s num_messages=%s prompt_tokens=%s",
            redact(url, self._secrets),
            request.step_number,
            sorted(payload),
            payload.get("n", 1),
            payload.get("max_tokens", payload.get("n_predict")),
            payload.get("temperature"),
            len(payload["messages"]) if "messages" in payload else None,
            next((len(ids) for key in ID_KEYS if isinstance(ids := payload.get(key), list)), None),
        )
        if self.settings.debug_request_full:
            self._logger.info("request body: %s", self._shown(body))
        if self.settings.request_save_dir is not None:
            self._save(url, body, request)

    def call(self, what: str, asked: Mapping[str, object], request: RequestInfo) -> None:
        """Log a call of an object in this process like a request: `asked` are its arguments."""
        self.request(what, _encoded(asked), request)

    def answer(self, what: str, answer: object) -> None:
        """Log what such a call returned."""
        if self.settings.debug_response:
            shown = self._shown(_encoded(answer))
            self._logger.info("response %s %s: %s", what, type(answer).__name__, shown)

    def response(self, url: str, status: int, body: bytes) -> None:
        """Log one response, if the settings ask for it."""
        if self.settings.debug_response:
            self._logger.info(
                "response %s status %d: %s", redact(url, self._secrets), status, self._shown(body)
            )

    def _save(self, url: str, body: bytes, request: RequestInfo) -> None:
        """Save the whole body in its own file, with a script that sends it again."""
        folder = self.settings.request_save_dir
        if folder is None:
            return
        milliseconds = int(time.time() * 1000)
        name = (
            f"atropos_agent_request_step{request.step_number}_{milliseconds}_{os.getpid()}_{uuid.uuid4().hex}"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_bytes(body)
            if url.startswith(("http://", "https://")):
                command = _curl(redact(url, self._secrets), f"{name}.json", request)
                (folder / f"{name}.curl.sh").write_text(command)
        except OSError as error:
            self._logger.warning("request not saved in %s: %s", folder, error)

    def _shown(self, body: bytes) -> str:
        text = redact(body.decode(errors="replace"), self._secrets)
        if len(text) > SHOWN_CHARACTERS:
            return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"
        return text


def _curl(url: str, file: str, request: RequestInfo) -> str:
    """A script that sends a saved request again. It reads the key from the environment: no key is saved."""
    headers = ["Content-Type: application/json"]
    if request.rollout_id:
        headers.append(f"{SESSION_HEADER}: {quote(request.rollout_id, safe='/#')}")
    given = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    return (
        "#!/bin/sh\n"
        "# Sends the saved request again. A server that wants a key: set ATROPOS_SERVER_API_KEY.\n"
        'cd "$(dirname "$0")" || exit\n'
        f"exec curl -sS -X POST {shlex.quote(url)} {given} \\\n"
        '    ${ATROPOS_SERVER_API_KEY:+-H "Authorization: Bearer $ATROPOS_SERVER_API_KEY"} \\\n'
        f"    --data-binary @{shlex.quote(file)}\n"
    )


def _encoded(value: object) -> bytes:
    """`value` as JSON. Other objects become their `model_dump()`, else their attributes, else their repr."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=options)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    try:
        return dict(vars(value))
    except TypeError:
        return repr(value)
