"""Small hand-made runs, written through the Recorder as a world would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twin.record.reader import RunRecord
from twin.record.telemetry_columns import TELEMETRY_NAMES
from twin.record.writer import Recorder

READ = (0.5,) * len(TELEMETRY_NAMES)
"""What an agent read: the end of a row of the table `telemetry`."""
NAN = float("nan")


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of a run of 100 s without warm-up; minimum 0.999 over a window of 20 s, to hold for 10 s."""
    scenario = {
        "schema": 1,
        "name": "hand-made",
        "claim": "A hand-made run says what its rows say.",
        "workload": {"warmup_s": changes.pop("warmup_s", 0.0), "duration_s": 100.0},
        "steady_state": {
            "success_ratio": {"min": changes.pop("minimum", 0.999), "window_s": changes.pop("window_s", 20.0)},
            "hold_s": changes.pop("hold_s", 10.0),
        },
    }
    return {"scenario": scenario, "seed": 1, "simulated_s": 100.0, "events": 50, "wall_s": 0.5, **changes}


class Run:
    """Collects rows with defaults, so that a test states only what matters to it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.recorder = Recorder(folder)
        self.requests = 0
        self.attempts = 0

    def request(self, arrival_s: float, end_s: float, **changes: Any) -> Run:
        """A request; by default served by node-0 at once."""
        row: dict[str, Any] = {
            "request_id": self.requests,
            "model": "llama3.1:8b",
            "arrival_s": arrival_s,
            "deadline_s": arrival_s + 60.0,
            "stream": True,
            "prompt_tokens": 100,
            "output_tokens": 10,
            "admitted": True,
            "outcome": "succeeded",
            "error": "",
            "node": "node-0",
            "attempts": 1,
            "dispatched_s": arrival_s,
            "first_token_s": arrival_s + 0.25,
            "end_s": end_s,
            "tokens_received": 10,
            "load_duration_s": 0.0,
            "prompt_eval_duration_s": 0.0,
            "eval_duration_s": 0.0,
            "total_duration_s": 0.0,
            "prompt_eval_count": 100,
            "answer": "right",
            "gateway": "gateway-0",
            "session": 0,
            "retry_of": None,
        }
        assert set(changes) <= set(row), changes
        self.requests += 1
        self.recorder.requests.add(tuple((row | changes).values()))
        return self

    def every(self, period_s: float, first_s: float, last_s: float, **changes: Any) -> Run:
        """Requests that end at each multiple of the period in [first_s, last_s], half a second after their arrival."""
        for index in range(round((last_s - first_s) / period_s) + 1):
            end_s = first_s + index * period_s
            self.request(end_s - 0.5, end_s, **changes)
        return self

    def failed_attempt(self, end_s: float, node: str = "node-0", error: str = "reset", request_id: int = -1) -> Run:
        """An attempt that failed."""
        self.recorder.attempts.add((request_id, 0, node, end_s - 1.0, NAN, end_s, error, 0))
        return self

    def fault(
        self,
        injected_s: float,
        node: str = "node-0",
        planned_end_s: float | None = None,
        ended_s: float | None = None,
        fault_id: int = 0,
        held: bool = False,
        struck: str = "",
        kind: str = "server_crash",
    ) -> Run:
        """A fault on a node: over at once unless it is said when, or that it held to the end of the run."""
        if ended_s is None and not held:
            ended_s = injected_s
        ended_by = "teardown" if ended_s is None else "schedule" if ended_s == planned_end_s else "action"
        row = (fault_id, kind, node, injected_s, planned_end_s, ended_s, ended_by, "killed", struck or node)
        self.recorder.faults.add(row)
        return self

    def incident(
        self,
        opened_s: float,
        node: str = "node-0",
        state: str = "closed",
        verified_s: float = NAN,
        closed_s: float = NAN,
        actions: int = 1,
        evidence: str = "3 refused",
    ) -> Run:
        """An incident on a node."""
        row = (0, node, "server_down", evidence, opened_s, state, verified_s, closed_s, actions, "gateway-0")
        self.recorder.incidents.add(row)
        return self

    def action(self, time_s: float, kind: str = "restart", node: str = "node-0", status: str = "done") -> Run:
        """An action on a node."""
        self.recorder.actions.add(
            (1, time_s, kind, node, "", "why", 1.0, time_s + 9, status, time_s + 1, "", "gateway-0")
        )
        return self

    def signs(
        self,
        began_s: float,
        ended_s: float,
        due_s: float | None,
        outcome: str = "failed",
        node: str = "node-0",
    ) -> Run:
        """A fault that showed beforehand, or a look-alike of one."""
        self.recorder.signs.add((0, "vram_leak", node, began_s, due_s, ended_s, outcome))
        return self

    def forecast(
        self,
        time_s: float,
        lead_s: float = 100.0,
        node: str = "node-0",
        failure: str = "gpu_memory",
        of: str = "gateway-0",
    ) -> Run:
        """A warning; with an endless lead the end of one. Its horizon is 50 s."""
        self.recorder.forecasts.add((time_s, node, failure, 0.8, 50.0, lead_s, "why", of))
        return self

    def probe(
        self, time_s: float, ok: bool, kind: str = "generation", node: str = "node-0", took_s: float = 0.5
    ) -> Run:
        """An answered probe."""
        self.recorder.probes.add((time_s, node, kind, "llama3.1:8b", ok, took_s, "" if ok else "refused", "gateway-0"))
        return self

    def end(self, **changes: Any) -> RunRecord:
        """The run as a reader sees it."""
        return self.recorder.close(manifest(**changes))
