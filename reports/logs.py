"""The tables of a run: faults, blast radius, decisions, troubled requests, invariants, runs. Long ones are cut, and say
so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.words import NOT_OBSERVED, figure, number, seconds
from twin.record.names import TROUBLES
from twin.record.story import Story

ROWS_MAX = 100
REQUESTS_MAX = 30


@dataclass(frozen=True, slots=True)
class Log:
    """A table of the page. A column whose title ends in " >" stands right-aligned."""

    title: str
    sentence: str
    titles: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    left_out: int = 0

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Title and alignment of each column."""
        return [{"title": title.removesuffix(" >"), "right": title.endswith(" >")} for title in self.titles]

    def records(self) -> list[dict[str, str]]:
        """The rows as objects, with the titles as their names."""
        names = [column["title"] for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def clock_time(time_s: float) -> str:
    """A time on the run's clock, to the hundredth of a second."""
    return f"{time_s:,.2f}"


def fault_log(story: Story) -> Log:
    """Each fault with its times to detection, mitigation and recovery."""
    log = Log(
        "Faults and recovery",
        "Detection: the first incident on the node. Mitigation: the last attempt that failed because of "
        "the fault. Recovery: the steady state is regained and held, and the node generates again. All are counted from the "
        "injection, and watched until the next fault on the node."
        if story.recoveries
        else "No fault was injected.",
        ("Fault", "Node", "Injected (s) >", "Ended", "Detected after >", "Mitigated after >", "Recovered after >"),
        left_out=max(0, len(story.recoveries) - ROWS_MAX),
    )
    for each in story.recoveries[:ROWS_MAX]:
        ended = f"{clock_time(each['ended_s'])} s, by {each['ended_by']}" if each["ended_s"] is not None else "never"
        mitigated = duration(each["ttm"], "nothing failed")
        cells = (duration(each["ttd"]), mitigated, duration(each["ttr"]))
        log.rows.append((each["kind"], each["node"], clock_time(each["injected_s"]), ended, *cells))
    return log


def duration(of: Mapping[str, Any], nothing: str = NOT_OBSERVED) -> str:
    """A duration in words: one that was not seen to its end says how long it was watched."""
    if of["value_s"] is not None:
        return seconds(of["value_s"])
    return f"not within {seconds(of['at_least_s'] or 0.0)}" if of["censored"] else nothing


def blast_log(story: Story) -> Log:
    """How far each fault reached."""
    log = Log(
        "Blast radius",
        "Of the requests that were in the system between a fault's injection and its recovery (or the run's end), those "
        "that it touched; a saved request was answered by another attempt."
        if story.blast
        else "No fault was injected, so nothing was touched.",
        (
            "Fault",
            "Node",
            "Requests meanwhile >",
            "Lost >",
            "Turned away >",
            "Saved >",
            "Attempts that failed >",
            "Nodes where they failed >",
            "95 % ended within >",
        ),
    )
    for row in story.blast:
        counts = ("requests", "lost", "rejected", "saved", "attempts_failed", "nodes_with_failures")
        took = seconds(row["e2e_p95_s"]) if row["e2e_p95_s"] is not None else NOT_OBSERVED
        log.rows.append((row["kind"], row["node"], *(number(row[name]) for name in counts), took))
    return _cut(log)


def decision_log(story: Story) -> Log:
    """Incidents and actions in the order of time, with their reasons."""
    titles = ("# >", "Time (s) >", "Node", "What", "Why", "Result")
    log = Log(
        "Decisions",
        "What the policy took for a failure, and what it did about it, with its reasons. The numbers stand in the close-up.",
        titles,
        left_out=max(0, story.decisions_in_all - ROWS_MAX),
    )
    for row in story.decisions[:ROWS_MAX]:
        log.rows.append(
            (str(row["number"]), clock_time(row["at"]), row["node"], row["what"], row["why"], row["result"])
        )
    return log if log.rows else Log(log.title, "It opened no incident and did nothing.", titles)


def request_log(story: Story, most: int = REQUESTS_MAX) -> Log:
    """Requests that were lost, turned away or saved by another attempt."""
    log = Log(
        "Failed and retried requests",
        troubles_in_words(story),
        (
            "Request >",
            "Arrival (s) >",
            "Fate",
            "Went to",
            "Attempts >",
            "Took (s) >",
            "Tokens >",
            "Last error",
        ),
        left_out=max(0, story.troubled_in_all - min(most, len(story.troubled))),
    )
    for row in story.troubled[:most]:
        took = number(round(row["end_s"] - row["arrival_s"], 3)) if row["end_s"] is not None else NOT_OBSERVED
        log.rows.append(
            (
                str(row["request_id"]),
                clock_time(row["arrival_s"]),
                row["fate"],
                way_of(row),
                str(row["attempts"]),
                took,
                str(row["tokens_received"]),
                row["error"] or "",
            )
        )
    return log


def way_of(row: Mapping[str, Any]) -> str:
    """The nodes that a request went to, with what went wrong there."""
    way = [f"{each['node']} ({each['error']})" for each in row["failed_attempts"]]
    if row["fate"] == "saved" or not way:
        way.append(row["node"] or "–")
    return " → ".join(way)


def troubles_in_words(story: Story) -> str:
    """How many requests had trouble, and of what kind."""
    troubles = story.troubles
    causes = ", ".join(f"{count} × {error}" for error, count in troubles["errors"].items())
    failed = f" Attempts that failed: {causes}." if causes else " No attempt failed."
    said = ", ".join(f"{number(troubles[name])} {words}" for name, words in TROUBLES.items())
    return f"In the whole run, warm-up included: {said}.{failed}"


def probe_log(stories: Sequence[tuple[str, Story]]) -> Log:
    """What watching costs: the probes of runs, each with the name that it is to have."""
    log = Log(
        "Probe traffic",
        "Probes that the policy sent; a generation probe asks for one token, all others cost a node next to nothing.",
        ("Run", "Probes for each node and minute >", "Generation probes for each 100 requests >", "By kind"),
    )
    for name, story in stories:
        probes = story.probes
        per_minute, per_request = probes["per_node_minute"], probes["generations_per_request"]
        log.rows.append(
            (
                name,
                "–" if per_minute is None else number(round(per_minute, 2)),
                "–" if per_request is None else number(round(100 * per_request, 2)),
                ", ".join(f"{kind} {number(count)}" for kind, count in probes["by_kind"].items() if count) or "none",
            )
        )
    return log


def invariant_log(summary: Mapping[str, Any]) -> Log:
    """What the checkers found."""
    broken = sum(1 for violations in summary["invariants"].values() if violations)
    log = Log(
        "Invariants",
        f"{broken} of {len(summary['invariants'])} were broken." if broken else "What must hold in every run, and did.",
        ("Invariant", "Violations >"),
    )
    log.rows.extend((name.replace("_", " "), number(count)) for name, count in summary["invariants"].items())
    return log if log.rows else Log(log.title, "None was checked.", log.titles)


def run_log(stories: Sequence[Story]) -> Log:
    """The runs of several replications beside each other."""
    names = ("requests_lost", "ttd_s", "ttm_s", "ttr_s", "false_actions")
    log = Log(
        "All runs",
        "One row for each replication.",
        ("Seed >", "World", "Lost >", "TTD >", "TTM >", "TTR >", "False actions >", "Length of the run >"),
    )
    for story in stories:
        cells = (figure(name, story.figures[name]) for name in (*names, "simulated_s"))
        seed, world = story.manifest.get("seed", "–"), story.manifest.get("world", "–")
        log.rows.append((str(seed), str(world), *cells))
    return _cut(log)


def _cut(log: Log) -> Log:
    return Log(log.title, log.sentence, log.titles, log.rows[:ROWS_MAX], max(0, len(log.rows) - ROWS_MAX))
