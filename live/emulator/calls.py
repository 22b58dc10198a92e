"""What clients ask of the emulator, and in what words Ollama refuses it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array"}


class Refused(Exception):
    """The request is answered with this status and this message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """A request for a generation, a load or an unload."""

    model: str  # as the client calls it
    prompt: str  # all that the text depends on; empty: nothing is to be generated
    prompt_tokens: int
    said_tokens: int  # of an unfinished last message of the assistant, which the answer goes on from
    stream: bool
    seed: int | None
    output_tokens: int | None  # the client's limit
    context_tokens: int  # num_ctx; 0: the model's own
    keep_alive_s: float | None  # None: not said
    wants_usage: bool = False
    thinks: bool = False  # before its text


def parse_object(body: bytes, go_type: str) -> JsonObject:
    """The request's JSON object. Raises Refused as Go's decoder does."""
    if not body.strip():
        raise Refused(400, "missing request body")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        first = body.decode(errors="replace").lstrip()[0]
        if first in '{["':
            raise Refused(400, "unexpected EOF") from None
        raise Refused(400, f"invalid character {first!r} looking for beginning of value") from None
    if fields is None:
        return {}  # Go leaves all fields as they are
    if not isinstance(fields, dict):
        kind = _GO_KINDS.get(type(fields), "object")
        raise Refused(400, f"json: cannot unmarshal {kind} into Go value of type {go_type}")
    return fields


def text_field(fields: JsonObject, name: str, go_type: str) -> str:
    """A string of the request, empty where it is missing. Raises Refused."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = _GO_KINDS.get(type(value), "object")
        struct = go_type.rpartition(".")[2]
        raise Refused(400, f"json: cannot unmarshal {kind} into Go struct field {struct}.{name} of type string")
    return value


def integer_option(options: JsonObject, name: str) -> int | None:
    """A whole number among the options, None where it is missing. Raises Refused."""
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(500, f'option "{name}" must be of type integer')
    return int(value)


def keep_alive_s(value: object) -> float | None:
    """`keep_alive` in seconds: a number of them, or a duration as Go writes it; negative: for ever. Raises Refused."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if value >= 0 else math.inf
    if not isinstance(value, str):
        raise Refused(400, f"invalid type {type(value).__name__} for keep_alive")
    sign, digits = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
    parts = _DURATION_PART.findall(digits)
    if digits == "0":
        return 0.0
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise Refused(400, f'time: invalid duration "{value}"')
    total_s = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return total_s if sign > 0.0 else math.inf
