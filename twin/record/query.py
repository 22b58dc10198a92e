"""Questions to a record in SQL: DuckDB reads the Parquet files and only the columns that are asked for.

Every table of `schema.TABLES` is a view of its name. A record that is kept in memory is asked in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twin.record.reader import RunRecord, RunUnreadable
from twin.record.schema import TABLES

Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = dict[str, NDArray[Any]]

SUCCEEDED = "(coalesce(admitted, false) AND outcome = 'succeeded' AND coalesce(end_s <= deadline_s, true))"
"""A request that succeeded, as `recovery.outcomes` has it."""

CANCELLED = "(coalesce(admitted, false) AND outcome = 'cancelled')"
"""A request that its client gave up."""

LOST = f"(coalesce(admitted, false) AND NOT coalesce({SUCCEEDED}, false) AND coalesce(outcome, '') <> 'cancelled')"
"""A request that was admitted, and neither succeeded nor was cancelled."""

REJECTED = "(NOT coalesce(admitted, false))"
"""A request that was turned away."""


class Query:
    """A connection to the tables of one record."""

    def __init__(self, record: RunRecord, connection: Any) -> None:
        self.record = record
        self._connection = connection

    def rows(self, sql: str, **values: Any) -> list[Row]:
        """The answer as one object a row. `$name` in the SQL is the value of that name."""
        cursor = self._run(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, sql: str, **values: Any) -> Columns:
        """The answer as one numpy array a column; a number that is null is nan."""
        found = self._run(sql, values).fetchnumpy()
        return {name: _filled(column) for name, column in found.items()}

    def _run(self, sql: str, values: Row) -> Any:
        import duckdb  # noqa: PLC0415  # not needed by every command

        try:
            return self._connection.execute(sql, values or None)
        except duckdb.IOException as error:
            raise RunUnreadable(f"{self.record.folder} cannot be read: {str(error).splitlines()[0]}") from error


@contextmanager
def query(record: RunRecord) -> Iterator[Query]:
    """Ask the record's tables. Raises `RunUnreadable` where a file of it is damaged."""
    import duckdb  # noqa: PLC0415

    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        for name in TABLES:
            if record.folder is None:
                connection.register(name, record.table(name))
            else:
                path = str(record.folder / f"{name}.parquet").replace("'", "''")
                try:
                    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
                except duckdb.Error as error:
                    raise RunUnreadable(
                        f"{path} cannot be read: {str(error).splitlines()[0]}; run the scenario again"
                    ) from error
        yield Query(record, connection)


def _filled(column: Any) -> NDArray[Any]:
    if not isinstance(column, np.ma.MaskedArray):
        return np.asarray(column)
    if np.issubdtype(column.dtype, np.number):
        return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))
    return np.asarray(np.ma.filled(column, None))
