"""Text to token ids and back, through a private copy of a tokenizer that no other code can reconfigure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from atropos_agent.errors import RenderError
from atropos_agent.trajectory import TokenIds

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding
    from transformers import PreTrainedTokenizerFast

BREAK = "\u200b"


class Tokens:
    """The token side of a renderer. Immutable; encoding and decoding are safe from any thread.

    `eos_ids` are the end tokens that the tokenizer and the caller declare. `control_ids` are the ids of
    the added tokens that are special or look like a tag. `control_tokens` are their texts and the caller's
    `control_texts`, longest first.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        eos_ids: Iterable[int] = (),
        control_texts: Iterable[str] = (),
    ) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RenderError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; convert it to a tokenizer.json first"
            )
        serialised = backend.to_str()
        # A copy: transformers sets truncation and padding of its own backend at each call.
        self._backend = Tokenizer.from_str(serialised)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._byte_level = _is_byte_level(serialised)
        self.digest: str = hashlib.sha256(serialised.encode()).hexdigest()
        vocabulary: Mapping[str, int] = self._backend.get_vocab(with_added_tokens=True)
        self.vocabulary_size: int = max(vocabulary.values(), default=-1) + 1
        self.eos_ids: frozenset[int] = frozenset(eos_ids) | _ids(tokenizer.eos_token_id)
        self._added: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()
        control = {i: t.content for i, t in self._added.items() if t.special or _looks_like_tag(t.content)}
        self.control_ids: frozenset[int] = frozenset(control)
        self.special_ids: frozenset[int] = frozenset(i for i, token in self._added.items() if token.special)
        self._own_control = frozenset(control.values())
        self.control_tokens: tuple[str, ...] = _longest_first(self._own_control.union(control_texts))
        # Unknown text encodes to the unknown token, so finding that one does not mean that it was spelled.
        self._breakable = self.control_ids - _ids(tokenizer.unk_token_id)

    def with_control_texts(self, control_texts: Iterable[str]) -> Tokens:
        """The same tokens with these control texts beside the tokenizer's own, in place of earlier ones."""
        other = copy.copy(self)
        other.control_tokens = _longest_first(self._own_control.union(control_texts))
        return other

    def encode(self, text: str) -> TokenIds:
        """Ids of `text`, int32[n]; control tokens in it become control ids, no special token is added."""
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_located(self, text: str) -> Encoding:
        """The encoding of `text`, with `offsets` [start, end) in characters beside the ids."""
        return self._backend.encode(text, add_special_tokens=False)

    def decode(self, ids: TokenIds) -> str:
        """Text of `ids`: special tokens kept, nothing cleaned up, broken UTF-8 as U+FFFD."""
        return self._backend.decode(ids.tolist(), skip_special_tokens=False)

    def ids_from_bytes(self, token_bytes: Sequence[bytes]) -> TokenIds | None:
        """The ids whose bytes these are, int32[n]; None where one is unknown or belongs to several ids,
        and always None for a tokenizer that does not work on bytes."""
        table = self._bytes_to_id
        ids = [table.get(piece) for piece in token_bytes]
        return None if None in ids else np.array(ids, np.int32)

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id by itself; not always whole UTF-8."""
        return [self._bytes_of(token) for token in ids]

    def _bytes_of(self, token: int) -> bytes:
        text = self._backend.id_to_token(token) or ""
        alphabet = _byte_alphabet()
        if self._byte_level and token not in self._added and all(char in alphabet for char in text):
            return bytes(alphabet[char] for char in text)
        return self._backend.decode([token], skip_special_tokens=False).encode()

    def neutralise(self, text: str) -> str:
        """`text` with every control token broken by U+200B after its first character, so that no control
        id comes out of encoding it. What cannot be broken that way is removed."""
        given = text
        for token in self.control_tokens:
            while token in text:  # `replace` skips occurrences that overlap the previous one
                text = text.replace(token, f"{token[0]}{BREAK}{token[1:]}" if len(token) > 1 else "")
        if text is given and self._backend.normalizer is None:
            return text  # nothing but the literal text of a control token can encode to it
        while spans := self._control_spans(text):
            for start, end in reversed(spans):
                text = text[:start] + text[end:]
        return text

    def _control_spans(self, text: str) -> list[tuple[int, int]]:
        """Where the normalizer still finds control tokens, e.g. written in full-width letters."""
        encoding = self.encode_located(text)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(start, end) for token, (start, end) in pairs if token in self._breakable and start < end]

    @cached_property
    def _bytes_to_id(self) -> dict[bytes, int | None]:
        if not self._byte_level:
            return {}
        alphabet = _byte_alphabet()
        table: dict[bytes, int | None] = {}
        for text, token in self._backend.get_vocab(with_added_tokens=True).items():
            try:
                piece = text.encode() if token in self._added else bytes(alphabet[char] for char in text)
            except KeyError:
                continue
            table[piece] = None if piece in table else token
        table.pop(b"", None)
        return table


def _longest_first(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def _is_byte_level(serialised: str) -> bool:
    decoder = json.loads(serialised).get("decoder") or {}
    return any(part.get("type") == "ByteLevel" for part in decoder.get("decoders", [decoder]))


def _ids(declared: object) -> frozenset[int]:
    """A special token's id or ids, as a tokenizer's attribute gives them."""
    found = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in found if isinstance(token, int))


def _looks_like_tag(text: str) -> bool:
    pair = text[:1] + text[-1:]
    return len(text) > 2 and pair in {"<>", "[]"}


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = (byte for byte in range(256) if byte not in visible)
    return {chr(byte): byte for byte in visible} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
