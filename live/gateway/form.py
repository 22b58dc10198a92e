"""A field of a form (`multipart/form-data`), without the rest of it: an audio file is not taken apart.

In one pass: whatever a client sends, nobody else waits for it.
"""

from __future__ import annotations

import re

HEAD_MAX_BYTES = 8 << 10
"""Longest head of a part."""
PARTS_MAX = 100
"""Parts that are looked at; a field behind them is none."""
FIELD_MAX_BYTES = 512
_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})', re.IGNORECASE)


def form_field(body: bytes, content_type: str, name: str) -> str:
    """The text of a field; empty where there is none, or too much of it."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return ""
    wanted = re.compile(rb'[;\s]name="?%b"?[;\r]' % re.escape(name.encode()))
    delimiter = b"--" + boundary[1].encode("latin-1")
    at = body.find(delimiter)
    for _ in range(PARTS_MAX):
        start = at + len(delimiter)
        head_end = body.find(b"\r\n\r\n", start, start + HEAD_MAX_BYTES)
        end = body.find(b"\r\n" + delimiter, head_end + 2)
        if min(at, head_end, end) < 0:
            return ""
        if wanted.search(body, start, head_end + 2):
            value = body[head_end + 4 : end]
            return value.decode(errors="replace") if len(value) <= FIELD_MAX_BYTES else ""
        at = end + 2
    return ""
