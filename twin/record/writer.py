"""Writing the record of a run, at the speed of the simulator.

Rows are plain tuples in schema order. They are appended to a list and turned into Arrow batches by the thousands, so
that adding a row costs one bound `list.append` and memory stays flat however long the run is.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twin.errors import OperatorError
from twin.record.packing import Codes, PackedRows, coded
from twin.record.reader import MANIFEST, PARTIAL, RunRecord, check_manifest
from twin.record.schema import RECORD_VERSION, TABLES

Row: TypeAlias = tuple[Any, ...]
Converter: TypeAlias = Callable[[Sequence[Row]], list[Row]]

ROWS_PER_ROW_GROUP = 65_536
ROWS_PER_FLUSH = 8_192  # tuples that are still in the processor's cache are transposed twice as fast as old ones
ROWS_PER_BATCH = 2_048


class RunFolderTaken(OperatorError):
    """The folder holds a finished run already. The operator's to mend."""


class TableWriter:
    """Collects the rows of one table; writes them to `<table>.parquet`, or keeps them in memory without a folder.

    `add(row)` takes a tuple in schema order. In a column of numbers nan becomes null (a time that did not come), and
    None is null everywhere. A `converter`, where one is set, turns what was added into such tuples when it is flushed:
    what is dear to write out is then off the hot path.
    """

    def __init__(self, name: str, schema: pa.Schema, folder: Path | None) -> None:
        self.name = name
        self.schema = schema
        self.rows = 0  # flushed so far
        self.batches: list[pa.RecordBatch] = []
        self._written = 0
        self._pending: list[Any] = []
        self.add: Callable[[Any], None] = self._pending.append
        self.converter: Converter | None = None
        self._packed: PackedRows | None = None
        self._codes = {field.name: Codes() for field in schema if pa.types.is_dictionary(field.type)}
        self._final = folder / f"{name}.parquet" if folder else None
        self._file: pq.ParquetWriter | None = None

    def convert_with(self, converter: Converter) -> None:
        """Let `converter` turn what is added into rows at each flush. To be set before the first row is added."""
        if self.rows or self._pending:
            raise ValueError(f"table {self.name} has rows already; set its converter before the first one")
        self.converter = converter

    def packed_rows(self) -> PackedRows:
        """From now on `add` takes rows that were packed so. To be called before the first row is added."""
        if self.rows or self._pending:
            raise ValueError(f"table {self.name} has rows already; say how they are packed before the first one")
        self._packed = PackedRows(self.schema, self._codes)
        return self._packed

    @property
    def pending(self) -> int:
        """Rows added since the last flush."""
        return len(self._pending)

    def flush(self) -> None:
        """Turn what is pending into Arrow batches, and these into a row group when there are enough of them."""
        if not self._pending:
            return
        for start in range(0, len(self._pending), ROWS_PER_BATCH):
            self.batches.append(self._batch(self._pending[start : start + ROWS_PER_BATCH]))
        self.rows += len(self._pending)
        self._pending.clear()
        if self._final is not None and self.rows - self._written >= ROWS_PER_ROW_GROUP:
            self._write_row_group()

    def close(self) -> None:
        """Write the rest. The file still has its temporary name."""
        self.flush()
        if self._final is not None:
            self._write_row_group()
            self._open().close()

    def publish(self) -> None:
        """Give the closed file its name."""
        if self._final is not None:
            os.replace(_partial(self._final), self._final)

    def abandon(self) -> None:
        """Let go of the file under its temporary name: the run was broken off."""
        self._pending.clear()
        if self._file is not None:
            self._file.close()

    def _write_row_group(self) -> None:
        """Move the batches into the file, with one dictionary for each column of text."""
        if self.batches:
            self._open().write_table(pa.Table.from_batches(self.batches, self.schema).unify_dictionaries())
            self.batches = []
            self._written = self.rows

    def _open(self) -> pq.ParquetWriter:
        if self._file is None:
            assert self._final is not None
            floats = [field.name for field in self.schema if pa.types.is_floating(field.type)]
            self._file = pq.ParquetWriter(
                _partial(self._final),
                self.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=list(self._codes),
                column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT") or None,
            )
        return self._file

    def _batch(self, added: list[Any]) -> pa.RecordBatch:
        if self._packed is not None:
            return pa.RecordBatch.from_arrays(self._packed.arrays(added), schema=self.schema)
        rows = self.converter(added) if self.converter else added
        try:
            columns = list(zip(*rows, strict=True))
            if len(columns) != len(self.schema):
                raise ValueError(f"{len(columns)} values for {len(self.schema)} columns")
            arrays = [self._array(field, column) for field, column in zip(self.schema, columns, strict=True)]
        except (TypeError, ValueError, OverflowError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"a row for table {self.name} does not fit its schema: {error}") from error
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(self, field: pa.Field, column: Sequence[Any]) -> pa.Array:
        if field.name in self._codes:
            codes = self._codes[field.name]
            return coded(np.fromiter(map(codes.code, column), np.int32, len(column)), codes)
        if pa.types.is_floating(field.type):
            try:
                values = np.fromiter(column, np.float64, len(column))
            except TypeError:  # some are None
                return pa.array(column, field.type, from_pandas=True)
            return pa.array(values, from_pandas=True)
        return pa.array(column, field.type)


class Recorder:
    """Takes in everything that happens in a run: one `TableWriter` for each table of the schema.

    `folder`: where the run goes (made where it is missing), or None to keep it in memory. Files have a temporary name
    until `close`, and the manifest is written last, so that a run that was broken off can be told from a whole one.
    `counters` are cheap counts that go into the manifest. Raises `RunFolderTaken` where a finished run lies.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / MANIFEST).exists():
                raise RunFolderTaken(f"{folder} holds a finished run already: name another folder, or remove that one")
        self.folder = folder
        self.counters: dict[str, int] = {}
        self.requests = TableWriter("requests", TABLES["requests"], folder)
        self.attempts = TableWriter("attempts", TABLES["attempts"], folder)
        self.telemetry = TableWriter("telemetry", TABLES["telemetry"], folder)
        self.observations = TableWriter("observations", TABLES["observations"], folder)
        self.actions = TableWriter("actions", TABLES["actions"], folder)
        self.faults = TableWriter("faults", TABLES["faults"], folder)
        self.signs = TableWriter("signs", TABLES["signs"], folder)
        self.incidents = TableWriter("incidents", TABLES["incidents"], folder)
        self.probes = TableWriter("probes", TABLES["probes"], folder)
        self.writers: tuple[TableWriter, ...] = tuple(getattr(self, name) for name in TABLES)

    def flush_if_large(self) -> None:
        """Flush each table that has many rows pending. Cheap; to be called every few hundred events or so."""
        for writer in self.writers:
            if writer.pending >= ROWS_PER_FLUSH:
                writer.flush()

    def close(self, manifest: dict[str, Any]) -> RunRecord:
        """Write what is left, then the manifest completed by version, row counts and counters; the run, for reading.

        `manifest` must have `scenario` (as in the YAML, defaults filled in), `simulated_s` and `wall_s`, or ValueError.
        """
        whole = {
            "record_version": RECORD_VERSION,
            **manifest,
            "counters": dict(sorted(self.counters.items())),
        }
        for writer in self.writers:
            writer.close()
        whole["rows"] = {writer.name: writer.rows for writer in self.writers}
        problem = check_manifest(whole)
        if problem:
            raise ValueError(f"the manifest of a run {problem}")
        if self.folder is None:
            return RunRecord(whole, None, {writer.name: writer.batches for writer in self.writers})
        for writer in self.writers:
            writer.publish()
        target = self.folder / MANIFEST
        with open(_partial(target), "w", encoding="utf-8") as file:
            json.dump(_strict(whole), file, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(_partial(target), target)
        return RunRecord(whole, self.folder, None)

    def abandon(self) -> None:
        """Leave the files under their temporary names: the run was broken off, and nobody takes it for a whole one."""
        for writer in self.writers:
            with contextlib.suppress(OSError):  # a full disk may be why the run is broken off
                writer.abandon()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _strict(value: Any) -> Any:
    """The same without nan and infinities, which JSON cannot say: null."""
    if isinstance(value, dict):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
