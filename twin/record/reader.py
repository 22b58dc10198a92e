"""Reading the record of a run, and its digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twin.errors import OperatorError
from twin.record.schema import RECORD_VERSION, TABLES

MANIFEST = "manifest.json"
PARTIAL = ".partial"
REQUIRED = (
    "scenario.workload.warmup_s",
    "scenario.workload.duration_s",
    "scenario.steady_state.success_ratio.min",
    "scenario.steady_state.success_ratio.window_s",
    "scenario.steady_state.hold_s",
    "simulated_s",
    "wall_s",
)
"""Keys of the manifest without which no figure could be computed."""


class RunUnreadable(OperatorError):
    """A folder is no run that this version can read; the message is one line for the operator."""


class RunRecord:
    """What happened in a run: its manifest, and its tables, opened when they are asked for."""

    def __init__(
        self, manifest: dict[str, Any], folder: Path | None, batches: dict[str, list[pa.RecordBatch]] | None
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self._batches = batches

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of that name with its rows in the order of the run; only `columns`, where they are given.

        Raises KeyError where the schema has no such table or column, `RunUnreadable` where its file is damaged.
        """
        schema = TABLES[name]
        for column in columns or ():
            schema.field(column)
        if self._batches is not None:
            whole = pa.Table.from_batches(self._batches[name], schema)
            return whole.select(list(columns)) if columns is not None else whole
        assert self.folder is not None
        path = self.folder / f"{name}.parquet"
        try:
            with pq.ParquetFile(path, memory_map=True) as file:
                return file.read(columns=list(columns) if columns is not None else None)
        except (OSError, pa.ArrowInvalid) as error:
            raise RunUnreadable(f"{path} cannot be read: {_first_line(error)}; run the scenario again") from error

    def number(self, path: str) -> float:
        """The number at this dotted path of the manifest (`scenario.workload.warmup_s`)."""
        value = _lookup(self.manifest, path)
        if not isinstance(value, (int, float)):
            raise RunUnreadable(f"manifest of {self.folder or 'the run'}: {path} is {value!r}, not a number")
        return float(value)


def open_run(folder: Path) -> RunRecord:
    """The run in that folder. Raises `RunUnreadable`, whose one line says what is wrong with it and what to do."""
    path = folder / MANIFEST
    if problem := no_right_to(folder):
        raise RunUnreadable(problem)
    if not folder.is_dir():
        raise RunUnreadable(f"{folder} is no folder; `ollamamax run SCENARIO --out DIR` makes run folders")
    if not path.is_file():
        if any(folder.glob(f"*{PARTIAL}")) or any(folder.glob("*.parquet")):
            raise RunUnreadable(f"{folder} is half-written: the run is still going on, or was broken off; run it again")
        raise RunUnreadable(f"{folder} is no run: it has no {MANIFEST}; name the folder of a single run")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunUnreadable(f"{path} cannot be read: {_first_line(error)}; run the scenario again") from error
    problem = check_manifest(manifest)
    if problem:
        raise RunUnreadable(f"{path} {problem}; run the scenario again with this version")
    for name, schema in TABLES.items():
        table = folder / f"{name}.parquet"
        try:
            with pq.ParquetFile(table) as file:
                rows, found = file.metadata.num_rows, file.schema_arrow
        except FileNotFoundError:
            raise RunUnreadable(f"{table} is missing: the run is not whole; run the scenario again") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise RunUnreadable(f"{table} cannot be read: {_first_line(error)}; run the scenario again") from error
        if not found.equals(schema):
            raise RunUnreadable(f"{table} has other columns than this version reads; run the scenario again")
        if rows != manifest["rows"][name]:
            raise RunUnreadable(
                f"{table} has {rows} rows where the manifest says {manifest['rows'][name]}; run the scenario again"
            )
    return RunRecord(manifest, folder, None)


def no_right_to(folder: Path) -> str:
    """One line for the operator where this user may not list the folder or open what is in it; empty elsewhere."""
    try:
        os.scandir(folder).close()
        (folder / MANIFEST).stat()
    except PermissionError:
        return f"{folder} may not be read by this user; give the right to read it, and try again"
    except OSError:  # it is no folder, or has no manifest: others say so
        pass
    return ""


def check_manifest(manifest: object) -> str:
    """What is wrong with a manifest, as the end of a sentence; empty where nothing is."""
    if not isinstance(manifest, dict):
        return "is not an object"
    if manifest.get("record_version") != RECORD_VERSION:
        return f"has record version {manifest.get('record_version')}, where this version reads {RECORD_VERSION}"
    for key in REQUIRED:
        if not isinstance(_lookup(manifest, key), (int, float)):
            return f"has no number {key}"
    rows = manifest.get("rows")
    if not isinstance(rows, dict) or set(rows) != set(TABLES):
        return "does not say how many rows each table has"
    return ""


def record_digest(record: RunRecord) -> str:
    """sha256 (hex) over the content of all tables: the same rows in the same order give the same digest.

    It does not depend on how the rows are stored (encoding, compression, row groups, folder or memory), nor on anything
    outside the tables, so not on the wall clock.
    """
    whole = hashlib.sha256()
    for name, schema in TABLES.items():
        table = record.table(name)
        whole.update(f"{name}:{table.num_rows}\n".encode())
        for field in schema:
            whole.update(f"{field.name}:{field.type}\n".encode())
            if table.num_rows:
                _digest_column(whole, table.column(field.name))
    return whole.hexdigest()


def _digest_column(into: Any, column: pa.ChunkedArray) -> None:
    """Feed a column in a canonical form: where it is null, then its values with null as zero or empty."""
    kind = column.type
    if column.null_count:
        into.update(_bytes(np.packbits(column.is_null().to_numpy())))
    into.update(b"|")
    if pa.types.is_dictionary(kind):
        # Ranks among the sorted texts that occur: free of the order in which a dictionary was filled.
        array = column.unify_dictionaries().combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        codes = array.indices.fill_null(-1).to_numpy()
        texts = array.dictionary.to_pylist()
        used = np.flatnonzero(np.bincount(codes + 1, minlength=len(texts) + 1)[1:])
        order = sorted(used, key=lambda code: str(texts[code]))
        into.update(json.dumps([texts[code] for code in order]).encode())
        ranks = np.full(len(texts) + 1, -1, dtype=np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        into.update(_bytes(ranks[codes]))
    elif pa.types.is_string(kind):
        into.update(_bytes(pc.binary_length(column).fill_null(0).to_numpy().astype(np.int32)))
        for chunk in pc.fill_null(column, "").chunks:
            _, offsets, data = chunk.buffers()
            if data is not None:
                ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                into.update(memoryview(data)[ends[0] : ends[-1]])
    elif pa.types.is_boolean(kind):
        into.update(_bytes(np.packbits(pc.fill_null(column, False).to_numpy())))
    else:
        zero = 0.0 if pa.types.is_floating(kind) else 0
        into.update(_bytes((pc.fill_null(column, zero) if column.null_count else column).to_numpy()))


def _bytes(values: np.ndarray[Any, Any]) -> memoryview:
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little_endian).data.cast("B")


def _lookup(manifest: dict[str, Any], path: str) -> Any:
    value: Any = manifest
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
