"""Sealed segments: Parquet files of rows, one a rollout.

The tokens of a row are typed columns, which compress close to their entropy; everything else is one JSON
text, because its words repeat across fields and rows and compress best together. The key columns are the
index of a segment: they are read without the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.record.codec import SCHEMA_VERSION
from atropos_agent.record.manifest import require_schema
from atropos_agent.record.older import upgraded
from atropos_agent.trajectory import GroupKey, Json

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENTS = "segments"

GROUP_ROWS = 8192
GROUP_BYTES = 1 << 25
"""A row group ends at either bound; so much is in memory while a segment is written or read."""
BATCH_ROWS = 256
LEVEL = 15
PAGE_BYTES = 1 << 24
"""Large pages, so that zstd finds a text again that an earlier rollout holds."""

_SCHEMA_KEY = b"atropos_agent.schema"
_TOKENS = ("token_ids", "logprobs")
_READ = ("item_id", "repetition", "dropped", "more", "record")
_PARQUET: Mapping[str, Any] = {
    "compression": "zstd",
    "compression_level": LEVEL,
    "use_dictionary": ["item_id", "repetition", "dropped", "more", "stop_reason", "score"],
    # The exponent bytes of logprobs and the high bytes of ids have little entropy once they stand together.
    "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _TOKENS},
    "write_statistics": ["item_id", "repetition", "id", "score"],
    "data_page_size": PAGE_BYTES,
}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One recorded rollout, not decoded, with the group it belongs to. `more` is what a newer version wrote
    on the group's line."""

    item_id: str
    repetition: int
    dropped: str | None
    rollout: Mapping[str, object]
    schema: int
    more: Mapping[str, Json] = field(default_factory=dict[str, Json])


def write_segment(file: BinaryIO, rows: Iterable[Row]) -> int:
    """Write `rows` as one Parquet file. Returns their number. Raises RecordError for a row that is not a
    rollout."""
    import pyarrow.parquet as pq

    schema, total = _schema(), 0
    with pq.ParquetWriter(file, schema, **_PARQUET) as writer:
        for batch in _batches(map(_columns_of, rows)):
            writer.write_table(_table(batch, schema))
            total += len(batch)
    return total


def segment_rows(path: Path) -> int:
    """How many rows a segment holds. Raises RunDirectoryError."""
    return int(_opened(path).metadata.num_rows)


def segment_keys(path: Path) -> list[GroupKey]:
    """The groups of a segment, in order. Raises RunDirectoryError."""
    keys = _opened(path).read(columns=["item_id", "repetition"])
    pairs = zip(keys["item_id"].to_pylist(), keys["repetition"].to_pylist(), strict=True)
    return list(dict.fromkeys(pairs))


def read_segment(path: Path, start: int = 0) -> Iterator[Row]:
    """The rows of a segment from row `start` on, one batch in memory. Raises RunDirectoryError."""
    file = _opened(path)
    for number in range(file.num_row_groups):
        held = file.metadata.row_group(number).num_rows
        if start >= held:
            start -= held
            continue
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[number]):
            yield from _rows_of(batch.slice(start))
            start = max(start - batch.num_rows, 0)


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}; restore the file") from error
    found = (file.schema_arrow.metadata or {}).get(_SCHEMA_KEY, b"")
    require_schema(int(found) if found.isdigit() else None, path)
    return file


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("repetition", pa.int64(), nullable=False),
        pa.field("dropped", pa.string()),
        pa.field("more", pa.string()),
        pa.field("id", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("stop_reason", pa.string()),
        pa.field("sampled_tokens", pa.int64()),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
    ]
    return pa.schema(columns, metadata={_SCHEMA_KEY: str(SCHEMA_VERSION)})


def _batches(columns: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in columns:
        batch.append(row)
        size += len(row["record"]) + row["token_ids"].nbytes + row["logprobs"].nbytes
        if len(batch) == GROUP_ROWS or size >= GROUP_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _table(batch: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns: list[Any] = []
    for field_ in schema:
        values = [row[field_.name] for row in batch]
        if field_.name in _TOKENS:
            # From one flat array: a list of lists would become a Python object for each token.
            offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
            flat = pa.array(np.concatenate(values), field_.type.value_type)
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), flat, type=field_.type))
        else:
            columns.append(pa.array(values, field_.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _columns_of(row: Row) -> dict[str, Any]:
    try:
        rollout = dict(upgraded(row.rollout, row.schema))
        token_ids, logprobs = _without_tokens(rollout)
        return {
            "item_id": row.item_id,
            "repetition": row.repetition,
            "dropped": row.dropped,
            "more": orjson.dumps(row.more).decode() if row.more else None,
            "id": rollout["id"],
            "index": rollout["index"],
            **_outcome(rollout),
            "token_ids": np.array(token_ids, np.int32),
            "logprobs": np.array(logprobs, np.float32),
            "record": orjson.dumps(rollout),
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"item {row.item_id!r}, repetition {row.repetition}: {error!r}") from error


def _without_tokens(rollout: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Take the ids and logprobs of all sequences out of `rollout`; their numbers stay in their place."""
    ids: list[int] = []
    logprobs: list[float] = []
    for sequence in _sequences(rollout):
        ids += sequence["own_ids"]
        sequence["own_ids"] = len(sequence["own_ids"])
        values = sequence["own_logprobs"]["values"]
        logprobs += values
        sequence["own_logprobs"]["values"] = len(values)
    return ids, logprobs


def _with_tokens(rollout: dict[str, Any], ids: NDArray[np.int32], logprobs: NDArray[np.float32]) -> None:
    taken = held = 0
    for sequence in _sequences(rollout):
        count, values = sequence["own_ids"], sequence["own_logprobs"]["values"]
        sequence["own_ids"] = ids[taken : taken + count]
        sequence["own_logprobs"]["values"] = logprobs[held : held + values]
        taken, held = taken + count, held + values


def _sequences(rollout: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for trace in rollout["traces"]:
        yield from trace["result"].get("sequences", [])


def _outcome(rollout: Mapping[str, Any]) -> dict[str, Any]:
    """For queries: how the only trainable trace ended; nulls where several are trainable."""
    trainable = [trace for trace in rollout["traces"] if trace.get("trainable", True)]
    if len(trainable) != 1:
        return {"score": None, "stop_reason": None, "sampled_tokens": None}
    (trace,) = trainable
    result = trace["result"]
    return {
        "score": trace.get("score"),
        "stop_reason": result["stop_reason"],
        "sampled_tokens": result.get("total_tokens", 0),
    }


def _rows_of(batch: Any) -> Iterator[Row]:
    held = {name: batch.column(name).to_pylist() for name in _READ}
    ids, logprobs = (_lists(batch.column(name)) for name in _TOKENS)
    for at, record in enumerate(held["record"]):
        rollout = cast("dict[str, Any]", orjson.loads(record))
        _with_tokens(rollout, ids[at], logprobs[at])
        more = held["more"][at]
        yield Row(
            held["item_id"][at],
            held["repetition"][at],
            held["dropped"][at],
            rollout,
            SCHEMA_VERSION,
            {} if more is None else orjson.loads(more),
        )


def _lists(column: Any) -> list[NDArray[Any]]:
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    # Copies: a view would keep the whole batch in memory as long as one of its rollouts.
    return [values[start:end].copy() for start, end in pairwise(offsets)]
