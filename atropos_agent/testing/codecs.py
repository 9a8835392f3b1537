"""Text to token ids and back for the fakes: by bytes, or by a real tokenizer file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from atropos_agent.trajectory import TokenIds

Ids: TypeAlias = Sequence[int] | NDArray[np.int32]


class Codec(Protocol):
    """Text to token ids and back, without adding anything."""

    def encode(self, text: str) -> Ids:
        """The ids of `text`, special tokens recognised, none added."""
        ...

    def decode(self, ids: TokenIds) -> str:
        """The text of `ids`, special tokens kept."""
        ...

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id, decoded by itself."""
        ...


class ByteCodec:
    """One token per UTF-8 byte; `end_of_turn` (id 256) is the only special token."""

    end_of_turn = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def decode(self, ids: Ids) -> str:
        """The text of `ids`, without `end_of_turn`."""
        return bytes(int(i) for i in ids if i < self.end_of_turn).decode(errors="replace")

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """One byte each, none for `end_of_turn`."""
        return [bytes([i]) if i < self.end_of_turn else b"" for i in ids]


class TokenizerCodec:
    """A `tokenizer.json`, or the folder that holds it."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens are recognised, none is added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Ids) -> str:
        """The text of `ids`, special tokens kept."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Each id decoded by itself; broken UTF-8 becomes U+FFFD."""
        return [self.decode([token]).encode() for token in ids]

    def token_id(self, token: str) -> int | None:
        """The id of one token, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found
