"""Rows of fixed width, packed as bytes: the record of what happens thousands of times a second.

A packed row costs one call of `struct`, no work for the garbage collector, and its columns are cut out of the joined
bytes by NumPy, so that no value is touched twice in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

NULL_INTEGER: Final = -(2**63)
"""In a column of 64-bit integers: null."""


NULL_CODE: Final = -1

_STRUCT: Final = {"f8": "d", "i8": "q", "i4": "i", "i2": "h", "b1": "?"}
"""NumPy's type, without its byte order, to the letter of `struct`, whose standard sizes are used."""


class Codes:
    """The texts of a column, each with its code, in order of first appearance."""

    __slots__ = ("_known", "texts")

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self.texts: list[str] = []

    def code(self, text: str | None) -> int:
        """Its code; -1 is null."""
        if text is None:
            return NULL_CODE
        found = self._known.get(text, NULL_CODE)
        if found == NULL_CODE:
            found = self._known[text] = len(self.texts)
            self.texts.append(text)
        return found


def coded(indices: np.ndarray[Any, np.dtype[np.int32]], codes: Codes) -> pa.Array:
    """A column of text from its codes."""
    nulls = indices < 0
    return pa.DictionaryArray.from_arrays(
        pa.array(indices, mask=nulls) if nulls.any() else pa.array(indices), pa.array(codes.texts, pa.string())
    )


class PackedRows:
    """How a row of a table is packed. `pack(*values)`: its values in schema order, as bytes.

    A text is given by its code (`codes`, by column), a time that did not come as nan, a null 64-bit integer as
    `NULL_INTEGER`.
    """

    def __init__(self, schema: pa.Schema, codes: dict[str, Codes]) -> None:
        self.schema = schema
        self.codes = codes
        kinds = [np.dtype("i4") if f.name in codes else np.dtype(f.type.to_pandas_dtype()) for f in schema]
        self._dtype = np.dtype(list(zip(schema.names, kinds, strict=True)))
        self.pack: Callable[..., bytes] = struct.Struct("=" + "".join(_STRUCT[kind.str[1:]] for kind in kinds)).pack

    def arrays(self, rows: Sequence[bytes]) -> list[pa.Array]:
        """The columns of these rows."""
        table = np.frombuffer(b"".join(rows), self._dtype)
        return [self._array(field, np.ascontiguousarray(table[field.name])) for field in self.schema]

    def _array(self, field: pa.Field, column: np.ndarray[Any, np.dtype[Any]]) -> pa.Array:
        if field.name in self.codes:
            return coded(column, self.codes[field.name])
        if pa.types.is_int64(field.type):
            nulls = column == NULL_INTEGER
            return pa.array(column, mask=nulls) if nulls.any() else pa.array(column)
        return pa.array(column, field.type, from_pandas=pa.types.is_floating(field.type))
