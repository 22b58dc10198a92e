"""Who was in a batch with whom: worked out from the ends of requests and Ollama's own timings of them.

A request that ended well at t on the node held a slot from t - decoding - prompt evaluation on, and decoded from
t - decoding on. Decoding takes longer than Ollama's `eval_duration`: that leaves out how long the runner chose tokens,
for all sequences of the batch in turn (`samplingDuration` in its runner/ollamarunner/runner.go). Of a stream the first
token's arrival says when decoding began; that of other requests is taken to exceed their `eval_duration` by as much.
A prefill stops decoding for the whole batch (`REAL` nodes do so, and the node model); how many tokens come all the same
while one goes on is for the fit to say. So for each request there is the time that it decoded beside n - 1 others, for
each n: its *exposure*. Nodes on one host share its processor: each interval also has the number of nodes there that
worked, so that a fit can say what a share was worth (`shared`).
The way from the node to the client moves all times by the same amount, and is left out. What failed or was given up held
a slot, too, for a time that nobody knows: requests that shared their node with such a one are not used. Probes hold a slot
for a token and leave no request; the fits are robust against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twin.record.reader import RunRecord
from twin.record.recovery import equals, numbers
from twin.scenario.schema import Scenario

Numbers = NDArray[np.float64]
LEAST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Served:
    """The requests of runs that ended well and of which the node told its timings, as columns; times in seconds."""

    exposure_s: Numbers  # by request, batch size from 1 on, and nodes at work on the host from 1 on
    steps: Numbers  # tokens after the first
    prompt_tokens: Numbers
    prompt_eval_s: Numbers  # by request, and nodes at work on the host from 1 on
    prompts_beside: NDArray[np.int64]  # of others in its batch, evaluated while it decoded
    alone: NDArray[np.bool_]  # no other prefill came into its own
    decoding_s: Numbers
    output_tokens: Numbers
    way_s: Numbers  # dispatch to end, beyond what the node accounts for
    gateway_s: Numbers  # arrival to dispatch
    server_s: Numbers  # to the first token, beyond way and prompt; nan: a slot was waited for, or it is not known
    load_s: Numbers
    beside: NDArray[np.int64]  # in the batch that it came to
    working: NDArray[np.int64]  # nodes at work on the host when it came, with its own
    share: Numbers  # of the processor that its node had then
    block: NDArray[np.int64]  # of the run's time, for the bootstrap

    def __len__(self) -> int:
        return len(self.steps)


COLUMNS = (
    "node", "outcome", "attempts", "arrival_s", "dispatched_s", "end_s", "tokens_received", "prompt_eval_count",
    "load_duration_s", "prompt_eval_duration_s", "eval_duration_s", "total_duration_s", "prompt_tokens", "output_tokens",
    "model", "stream", "first_token_s",
)  # fmt: skip
BLOCK_S = 20.0
"""Requests of the same time depend on each other: they are drawn together."""


def served(record: RunRecord, slots: int, model: str, first_block: int, nodes_each: int = 1) -> Served:
    """What a run tells of the batches of one model. Blocks are numbered from `first_block` on; `nodes_each` nodes share a
    host, in the order of their names in the scenario."""
    table = record.table("requests", COLUMNS)
    known = equals(table, "outcome", "succeeded") & equals(table, "model", model)
    known &= (numbers(table, "output_tokens") > 0) & (numbers(table, "eval_duration_s") > LEAST_S)
    broken = _broken(record, table)
    table = table.filter(known)
    nodes = np.asarray(table["node"].to_pylist(), dtype=object)
    end_s = numbers(table, "end_s")
    prompt_eval_s = np.nan_to_num(numbers(table, "prompt_eval_duration_s"))
    load_s = np.nan_to_num(numbers(table, "load_duration_s"))
    total_s = numbers(table, "total_duration_s")
    decoding_s = _decoding_s(table, total_s - prompt_eval_s)
    evaluated = numbers(table, "prompt_eval_count")
    tokens = numbers(table, "tokens_received")
    count = len(end_s)
    exposure = np.zeros((count, slots, nodes_each))
    prefill = np.zeros((count, nodes_each))
    alone = np.ones(count, dtype=bool)
    beside = np.zeros(count, dtype=np.int64)
    prompts_beside = np.zeros(count, dtype=np.int64)
    working = np.ones(count, dtype=np.int64)
    first_token_s = end_s - decoding_s
    joined_s = first_token_s - prompt_eval_s
    asked_s = end_s - total_s
    rows_of = {node: np.flatnonzero(nodes == node) for node in set(nodes.tolist())}
    for host in _hosts(record, nodes_each):
        here = [rows_of[node] for node in host if node in rows_of]
        if here:
            _expose(here, joined_s, first_token_s, end_s, exposure, prefill)
            for rows in here:
                busy = [
                    _count(joined_s[each], asked_s[rows]) > _count(end_s[each], asked_s[rows])
                    for each in here
                    if each is not rows
                ]
                working[rows] += np.sum(busy, axis=0, dtype=np.int64)
    for rows in rows_of.values():
        begun_s = first_token_s[rows]
        prompts_beside[rows] = _count(begun_s, end_s[rows]) - _count(begun_s, begun_s)
        for row in rows:
            others = rows[rows != row]
            alone[row] = not np.any((joined_s[others] < first_token_s[row]) & (first_token_s[others] > joined_s[row]))
            beside[row] = np.sum((joined_s[others] <= asked_s[row]) & (end_s[others] > asked_s[row]))
    usable = numbers(table, "attempts") == 1
    for place in np.flatnonzero(usable).tolist():
        spans = broken.get(nodes[place], ())
        usable[place] = not any(begun < end_s[place] and asked_s[place] < ended for begun, ended in spans)
    dispatched_s = numbers(table, "dispatched_s")
    way_s = end_s - dispatched_s - total_s
    rest_s = total_s - prompt_eval_s - decoding_s
    streamed = np.asarray(table["stream"], dtype=bool)
    if streamed.any():  # some of the rest comes after the last token, when it holds nobody up
        rest_s = np.where(streamed, numbers(table, "first_token_s") - dispatched_s - way_s - prompt_eval_s, np.nan)
    whole = Served(
        exposure,
        tokens - 1.0,
        np.where(evaluated > 0, evaluated, numbers(table, "prompt_tokens")),
        prefill,
        prompts_beside,
        alone,
        decoding_s,
        tokens,
        way_s,
        dispatched_s - numbers(table, "arrival_s"),
        np.where(beside >= slots, np.nan, rest_s),
        load_s,
        beside,
        working,
        np.ones(count),
        first_block + (np.floor(end_s / BLOCK_S)).astype(np.int64),
    )
    return chosen(whole, np.flatnonzero(usable))


def _decoding_s(requests: pa.Table, most_s: Numbers) -> Numbers:
    """From the first token to the last, at the node: never less than Ollama says, and at most so long."""
    eval_s = numbers(requests, "eval_duration_s")
    streamed = np.asarray(requests["stream"], dtype=bool) & ~np.isnan(numbers(requests, "first_token_s"))
    seen_s = np.fmax(eval_s, np.fmin(most_s, numbers(requests, "end_s") - numbers(requests, "first_token_s")))
    whole = seen_s[streamed].sum() / eval_s[streamed].sum() if streamed.any() else 1.0
    return np.where(streamed, seen_s, eval_s * whole)


def _broken(record: RunRecord, requests: pa.Table) -> dict[str, list[tuple[float, float]]]:
    """By node: from when to when something held a slot there that did not end well."""
    spans: dict[str, list[tuple[float, float]]] = {}
    failed = requests.filter(~equals(requests, "outcome", "succeeded") & ~equals(requests, "outcome", "rejected"))
    for row in failed.select(["node", "dispatched_s", "end_s"]).to_pylist():
        if row["node"] and row["dispatched_s"] is not None:
            spans.setdefault(row["node"], []).append((row["dispatched_s"], row["end_s"]))
    for row in record.table("attempts", ["node", "started_s", "end_s"]).to_pylist():
        spans.setdefault(row["node"], []).append((row["started_s"], row["end_s"]))
    return spans


def _hosts(record: RunRecord, nodes_each: int) -> list[list[str]]:
    names = Scenario.model_validate(record.manifest["scenario"]).cluster.node_names()
    return [names[first : first + nodes_each] for first in range(0, len(names), nodes_each)]


def _expose(
    nodes: Sequence[NDArray[np.int64]],
    joined_s: Numbers,
    first_token_s: Numbers,
    end_s: Numbers,
    exposure: Numbers,
    prefill: Numbers,
) -> None:
    """Add up for each request of the nodes of a host the time that it decoded in a batch of each size, and that of its
    prompt's evaluation, by how many of the nodes worked."""
    rows = np.concatenate(nodes)
    times = np.unique(np.concatenate((joined_s[rows], first_token_s[rows], end_s[rows])))
    if len(times) < 2:
        return
    slots, most = exposure.shape[1], exposure.shape[2]
    middles, lengths = (times[1:] + times[:-1]) / 2.0, np.diff(times)
    places = np.arange(len(middles))
    inside = [_count(joined_s[each], middles) - _count(end_s[each], middles) for each in nodes]
    working = np.clip(np.sum([count > 0 for count in inside], axis=0), 1, most)
    passed = np.zeros((len(times), most))
    passed[places + 1, working - 1] = lengths
    passed = np.cumsum(passed, axis=0)
    first, last = np.searchsorted(times, joined_s[rows]), np.searchsorted(times, first_token_s[rows])
    prefill[rows] = passed[last] - passed[first]
    for each, count in zip(nodes, inside, strict=True):
        feeding = _count(joined_s[each], middles) > _count(first_token_s[each], middles)
        sums = np.zeros((len(times), slots, most))
        sums[places + 1, np.clip(count, 1, slots) - 1, working - 1] = np.where(feeding, 0.0, lengths)
        sums = np.cumsum(sums, axis=0)
        first, last = np.searchsorted(times, first_token_s[each]), np.searchsorted(times, end_s[each])
        exposure[each] += sums[last] - sums[first]


def _count(times: Numbers, until: Numbers) -> NDArray[np.int64]:
    """How many of the times have passed at each of `until`."""
    return np.searchsorted(np.sort(times), until, side="right")


def shared(of: Served, room: float) -> Served:
    """The same as if each node had had the processor for itself: times count by the share that a node had, `room` over the
    number of nodes at work where these are more."""
    share = np.minimum(1.0, room / np.arange(1, of.exposure_s.shape[2] + 1))
    share[0] = 1.0  # one alone
    return replace(
        of,
        exposure_s=(of.exposure_s * share).sum(axis=2, keepdims=True),
        prompt_eval_s=(of.prompt_eval_s * share).sum(axis=1, keepdims=True),
        share=share[of.working - 1],
    )


def joined(parts: list[Served]) -> Served:
    """Several runs as one. ValueError where there are none."""
    names = Served.__slots__
    return Served(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def chosen(whole: Served, rows: NDArray[np.int64]) -> Served:
    """Some of the requests, as a bootstrap draws them."""
    return Served(*(getattr(whole, name)[rows] for name in Served.__slots__))
