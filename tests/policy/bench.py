"""A bench on which a policy can be put: time that is turned by hand, nodes that behave as they are told.

It speaks the small language of `transcripts/*.txt`; `COMMANDS` lists it. What is printed is what an operator would see:
routes, probes that failed or went to a node that is not well (only where the answer is another than the last), changes of
health, actions with their reasons, incidents.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.forecast import Forecast, Forecaster
from twin.policy.parameters import preset
from twin.policy.vocabulary import (
    NEVER_S,
    Action,
    ActionResult,
    Advice,
    AttemptEnded,
    AttemptError,
    ClusterSpec,
    ModelSpec,
    NodeSpec,
    OperatorOrder,
    Probe,
    ProbeResult,
    Question,
    RequestSpec,
    RequestWithdrawn,
    Route,
    TelemetrySample,
)

COMMANDS = """
cluster nodes N slots S replicas R [preset NAME] [KEY=VALUE ...]   one model, m, of 5 GiB on nodes of 12 GiB
nobody can KIND NODE                          the policy knows so from the start; to be said after `cluster`
request N [deadline S]      requests N-M      a request arrives (several)
ended N succeeded | ERROR [after T tokens]    its attempt ended; T: received in this attempt
withdrawn N                                   it waited, and its client went away
NODE works                                    it answers every probe at once
NODE refuses | is cut off | hangs | crashes | cannot load | answers in S s
NODE has damaged files                        its server refuses at once what is not loaded
NODE fails to load                            loads die after a second
NODE reads nothing                            loads begin and get no weights, as its machine shows
NODE is crowded[, a token takes S s]          others have it work without a pause; without a time no token comes at all
NODE has lost its GPU                         models lie in main memory, as its machine shows
NODE forgets                                  it lets its models go
NODE loads s                                  somebody asked it for the small model
machines are read                             every 5 s: their GPU memory, and Ollama's processes
NODE keeps an orphan                          a runner that outlived its server, with 6 GiB, until kill_runner is done
restart NODE done | failed | timed_out | no_hand | no_lease   the result of that action; so with load, unload, pull,
                                              kill_runner. The others get theirs at once
foretell NODE FAILURE P in L s [because ...]  the predictor says so from now on: how likely, how soon; within 600 s
foretell nothing                              it does not any more
looking ahead loses REMEDY N [REMEDY N]       the answer to the question that is open; looking ahead fails: there is none
operator drains | returns | restarts NODE     an operator's order
advance S                                     time passes; the policy is woken whenever it wants to be
show                                          where everything stands
"""

DECODE_S = 0.05
SAMPLE_S = 5.0
SIZES_GIB = {"m": 5.0, "s": 1.0}
ORPHAN_GIB = 6.0
SWITCHES = {"true": True, "false": False}


def cluster(nodes: int, slots: int, replicas: int) -> ClusterSpec:
    """Nodes of 12 GiB; a model m of 5 GiB on the first of them, and a small one, s, on none."""
    names = [f"node-{index}" for index in range(nodes)]
    return ClusterSpec(
        tuple(NodeSpec(name, 12.0) for name in names),
        (ModelSpec("m", 5.0, replicas, slots), ModelSpec("s", 1.0, 0, slots)),
        {name: ("m",) for name in names[:replicas]},
    )


@dataclass(frozen=True, order=True)
class Asked:
    """A probe on its way, and what will become of it."""

    due_s: float
    probe_id: int
    probe: Probe = field(compare=False)
    took_s: float = field(compare=False)
    error: AttemptError = field(compare=False)


class Foretold(Forecaster):
    """Says what it is told to, and counts down."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], tuple[Forecast, float]] = {}

    def forecasts(self, now: float) -> list[Forecast]:
        return [replace(it, lead_s=max(0.0, due_s - now)) for it, due_s in self.said.values()]


class Bench:
    """One transcript's world."""

    def __init__(self) -> None:
        self.foretold = Foretold()
        self.spec = cluster(1, 1, 1)
        self.parameters = preset("default")
        self.policy = ClusterPolicy(self.spec, self.parameters, self.foretold)
        self.question: Question | None = None
        self.now = 0.0
        self.lines: list[str] = []
        self.requests: dict[int, RequestSpec] = {}
        self.attempts: dict[int, tuple[int, str, float]] = {}  # running: attempt, node, start
        self.count: dict[int, int] = {}
        self.behaviour: dict[str, str] = {}
        self.loaded: dict[str, set[str]] = {}
        self.orders: dict[int, Action] = {}
        self.answers: list[Asked] = []
        self.answered: dict[tuple[str, str], str] = {}  # what a probe said last: only what is new is printed
        self.health: dict[str, str] = {}
        self.states: dict[int, str] = {}
        self.orphans: set[str] = set()
        self.sample_due_s = NEVER_S
        self.wakeups = 0

    def say(self, text: str) -> None:
        self.lines.append(f"{self.now:.3f} {text}")

    # -- the language ---------------------------------------------------------------------------------------------

    def do(self, command: str) -> list[str]:
        """Perform one command; what was seen."""
        self.lines = []
        words = command.split()
        if words[0] == "cluster":
            self._cluster(words[1:])
        elif words[:2] == ["nobody", "can"]:
            self._without(words[2], words[3])
        elif words[0] in ("request", "requests"):
            first, _, last = words[1].partition("-")
            for number in range(int(first), int(last or first) + 1):
                self._request(number, float(words[3]) if len(words) > 2 else 60.0)
        elif words[0] == "ended":
            self._ended(int(words[1]), words[2], int(words[4]) if len(words) > 3 else 0)
        elif words[0] == "withdrawn":
            self.policy.observe(self.now, RequestWithdrawn(int(words[1])))
        elif words[0] in ("restart", "load", "unload", "pull", "kill_runner"):
            number = next(n for n, action in self.orders.items() if (action.kind, action.node) == (words[0], words[1]))
            self._result(number, words[2])
        elif words[0] == "operator":
            order = {"drains": "drain", "returns": "return", "restarts": "restart"}[words[1]]
            self.policy.observe(self.now, OperatorOrder(words[2], order))  # type: ignore[arg-type]
            self._watch()
        elif words[0] == "advance":
            self._advance(float(words[1]))
        elif words[0] == "show":
            self._show()
        elif words[0] == "foretell":
            self._foretell(words[1:])
        elif words[:2] == ["looking", "ahead"]:
            self._advise(words[2:])
        elif words == ["machines", "are", "read"]:
            self.sample_due_s = self.now
        elif words[1:] == ["keeps", "an", "orphan"]:
            self.orphans.add(words[0])
        elif words[-1] == "forgets":
            self.loaded[words[0]].clear()
        elif words[1:2] == ["loads"]:
            self.loaded[words[0]].add(words[2])
        elif words[0] in self.behaviour:
            self.behaviour[words[0]] = " ".join(words[1:])
        else:
            raise ValueError(f"no such command: {command}")
        return self.lines

    def _cluster(self, words: list[str]) -> None:
        numbers: dict[str, int] = {}
        overrides: dict[str, object] = {}
        name = "default"
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word in ("nodes", "slots", "replicas"):
                numbers[word] = int(following)
            elif word == "preset":
                name = following
            elif "=" in word:
                key, _, value = word.partition("=")
                number = re.fullmatch(r"[\d.]+", value)
                overrides[key] = SWITCHES.get(
                    value, (float(value) if "." in value else int(value)) if number else value
                )
        spec = self.spec = cluster(numbers["nodes"], numbers["slots"], numbers["replicas"])
        self.parameters = preset(name, overrides)
        self.policy = ClusterPolicy(spec, self.parameters, self.foretold)
        self.behaviour = {node.name: "works" for node in spec.nodes}
        self.loaded = {node.name: set(spec.placement.get(node.name, ())) for node in spec.nodes}
        self.health = {node.name: "serving" for node in spec.nodes}
        self._wake()

    def _without(self, kind: str, name: str) -> None:
        nodes = [replace(it, hands=it.hands - {kind}) if it.name == name else it for it in self.spec.nodes]
        self.spec = replace(self.spec, nodes=tuple(nodes))
        self.policy = ClusterPolicy(self.spec, self.parameters, self.foretold)
        self.answers.clear()
        self._wake()

    def _foretell(self, words: list[str]) -> None:
        if words == ["nothing"]:
            self.foretold.said.clear()
            return
        node, failure, probability, _, lead_s = words[:5]
        reasons = (" ".join(words[7:]),) if words[6:7] == ["because"] else ()
        forecast = Forecast(node, failure, float(probability), 600.0, float(lead_s), reasons)  # type: ignore[arg-type]
        self.foretold.said[node, failure] = (forecast, self.now + float(lead_s))

    def _advise(self, words: list[str]) -> None:
        assert self.question is not None, "nobody has asked"
        asked, self.question = self.question, None
        lost = {name: float(count) for name, count in zip(words[1::2], words[2::2], strict=True)}
        status = "done" if lost else "unavailable"
        self.policy.observe(self.now, Advice(asked.question_id, asked.node, status, lost))  # type: ignore[arg-type]

    def _request(self, number: int, deadline_s: float) -> None:
        spec = self.requests[number] = RequestSpec(number, "m", 100, True, self.now, self.now + deadline_s)
        self.count[number] = 0
        self._take(number, self.policy.route(self.now, spec, 0))

    def _take(self, number: int, route: Route, how: str = "") -> None:
        if route.kind == "dispatch":
            self.attempts[number] = (self.count[number], route.node, self.now)
            first_s = route.first_token_deadline_s
            limits = (
                "" if first_s < 10.0 else ", no limits" if first_s == NEVER_S else f", first token within {first_s:g} s"
            )
            self.say(f"request {number} -> {route.node}{how}{limits}")
        elif route.kind == "wait":
            self.say(f"request {number} waits")
        else:
            self.say(f"request {number} shed: {route.reason}")

    def _ended(self, number: int, how: str, tokens: int) -> None:
        attempt, node, started_s = self.attempts.pop(number)
        succeeded = how == "succeeded"
        if succeeded:
            tokens = tokens or 20
        first_s = started_s + 0.1 if tokens else float("nan")
        outcome = "succeeded" if succeeded else "failed"
        error: AttemptError = "" if succeeded else how  # type: ignore[assignment]
        if succeeded:
            self.loaded[node].add("m")
        eval_s = self.now - first_s if succeeded else 0.0
        self.policy.observe(
            self.now,
            AttemptEnded(number, attempt, node, "m", outcome, error, started_s, first_s, tokens, 0.0, 0.1, eval_s, 0.0),  # type: ignore[arg-type]
        )
        if not succeeded:
            self.count[number] += 1
            self._take(number, self.policy.route(self.now, self.requests[number], self.count[number]))
        self._released()
        self._watch()

    def _result(self, number: int, status: str) -> None:
        action = self.orders.pop(number)
        if status == "done" and action.kind == "unload":
            self.loaded[action.node].discard(action.model)
        if status == "done" and action.kind == "kill_runner":
            self.orphans.discard(action.node)
        if status == "done" and action.kind in ("restart", "kill_runner"):
            self.loaded[action.node].clear()
            for asked in [asked for asked in self.answers if asked.probe.node == action.node]:
                self.answers.remove(asked)  # their connections broke with the old process
                self.answers.append(replace(asked, due_s=self.now, error="reset"))
            heapq.heapify(self.answers)
        elif status == "done" and action.kind == "load":
            self.loaded[action.node].add(action.model)
        self.policy.observe(self.now, ActionResult(number, action.node, action.kind, status))  # type: ignore[arg-type]
        self._released()
        self._watch()

    def _show(self) -> None:
        for node in self.policy.view.nodes.values():
            loaded = "loaded" if node.replicas["m"].resident else "not loaded"
            back = f", set back {node.penalty + node.rising}" if node.penalty or node.rising else ""
            self.say(f"{node.name} {node.health}, m {loaded}, {node.in_flight} in flight{back}")
        for incident in self.policy.incidents:
            self.say(f"incident {incident.incident_id} {incident.node} {incident.diagnosis} {incident.state}")
        self.say(f"{self.policy.waiting} waiting")

    # -- time -----------------------------------------------------------------------------------------------------

    def _advance(self, by_s: float) -> None:
        end_s = round(self.now + by_s, 9)
        while True:
            wake_s = self.policy.next_wakeup()
            answer_s = self.answers[0].due_s if self.answers else NEVER_S
            due_s = min(wake_s, answer_s, self.sample_due_s)
            if due_s > end_s:
                break
            self.now = max(self.now, due_s)
            if self.sample_due_s == due_s:
                self._read_machines()
            elif answer_s <= wake_s:
                self._answer()
            else:
                self._wake()
        self.now = end_s

    def _read_machines(self) -> None:
        self.sample_due_s = self.now + SAMPLE_S
        for name, loaded in self.loaded.items():
            how = self.behaviour[name]
            if how == "is cut off":
                continue
            up = how != "refuses"
            on_gpu = up and how != "has lost its GPU"
            listed_gib = sum(SIZES_GIB[model] for model in loaded) if on_gpu else 0.0
            orphans = float(name in self.orphans)
            asked = [it.probe for it in self.answers if (it.probe.node, it.probe.kind) == (name, "load_path")]
            stands = float(how == "reads nothing" and bool(asked))
            values = {
                "vram_total_gib": 12.0,
                "vram_used_gib": listed_gib + ORPHAN_GIB * orphans,
                "gpu_utilisation": float(how.startswith("is crowded")),
                "ollama_processes": orphans + (1.0 + len(loaded) + stands if up else 0.0),
            }
            if up:
                values |= {"ollama_resident_models": float(len(loaded)), "ollama_vram_gib": listed_gib}
            self.policy.observe(self.now, TelemetrySample(name, values))
        self._watch()

    def _wake(self) -> None:
        self.wakeups += 1
        self._released()
        commands = self.policy.decide(self.now)
        self._watch()
        for command in commands:
            if isinstance(command, Probe):
                self._ask(command)
            elif isinstance(command, Question):
                self.question = command
                self.say(f"asks what {command.node} would lose with {', '.join(command.options)}")
            else:
                self._order(command)
        self._watch()
        self._released()
        assert self.policy.next_wakeup() > self.now, "the policy spins: it wants to be woken again at once"

    def _released(self) -> None:
        for number, route in self.policy.released(self.now):
            self._take(number, route, " after waiting")

    def _watch(self) -> None:
        """Say what has changed."""
        for name, node in self.policy.view.nodes.items():
            if node.health != self.health[name]:
                self.say(f"{name}: {self.health[name]} -> {node.health}")
                self.health[name] = node.health
        for incident in self.policy.incidents:
            before = self.states.get(incident.incident_id)
            if before is None:
                self.say(
                    f"incident {incident.incident_id}: {incident.node} is {incident.diagnosis}: {incident.evidence}"
                )
            if incident.state != (before or "open"):
                self.say(f"incident {incident.incident_id}: {before or 'open'} -> {incident.state}")
            self.states[incident.incident_id] = incident.state

    # -- nodes ----------------------------------------------------------------------------------------------------

    def _ask(self, probe: Probe) -> None:
        after_s, error = self._behave(probe)
        if after_s > probe.timeout_s:
            after_s, error = probe.timeout_s, "unreachable" if probe.kind in ("liveness", "residency") else error
            error = error or "first_token_timeout"
        heapq.heappush(self.answers, Asked(round(self.now + after_s, 9), probe.probe_id, probe, after_s, error))

    def _behave(self, probe: Probe) -> tuple[float, AttemptError]:
        how = self.behaviour[probe.node]
        generates = probe.kind in ("generation", "load_path")
        if how == "refuses":
            return 0.001, "refused"
        if how == "is cut off":
            return NEVER_S, "unreachable"
        if how == "hangs" and generates:
            return NEVER_S, "first_token_timeout"
        if how == "crashes" and generates:
            return DECODE_S, "server_error"
        loads = probe.kind == "load_path" or (generates and "m" not in self.loaded[probe.node])
        if how in ("cannot load", "reads nothing") and loads:
            return NEVER_S, "first_token_timeout"
        if how == "fails to load" and loads:
            return 1.0, "server_error"
        crowded = re.fullmatch(r"is crowded(?:, a token takes ([\d.]+) s)?", how)
        if crowded and generates:
            return (float(crowded[1]), "") if crowded[1] else (NEVER_S, "first_token_timeout")
        if how == "has damaged files" and generates and "m" not in self.loaded[probe.node]:
            return 0.002, "server_error"
        far = re.fullmatch(r"answers in ([\d.]+) s", how)
        return (float(far[1]) if far else 0.001) + (DECODE_S if generates else 0.0), ""

    def _answer(self) -> None:
        asked = heapq.heappop(self.answers)
        probe, error = asked.probe, asked.error
        if not error and probe.kind == "generation":
            self.loaded[probe.node].add(probe.model)
        unwell = self.health[probe.node] != "serving"
        seen = tuple(sorted(self.loaded[probe.node])) if probe.kind == "residency" else ()
        said = (error or "passed") if error or unwell else ""
        if said and said != self.answered.get((probe.node, probe.kind)):
            what = f"{probe.kind} of {probe.model}" if probe.model else probe.kind
            self.say(f"{probe.node} {what}: {said}")
        self.answered[probe.node, probe.kind] = said
        self.policy.observe(
            self.now,
            ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, not error, asked.took_s, error, seen),
        )
        self._watch()
        self._released()

    def _order(self, action: Action) -> None:
        what = f"{action.kind} {action.model} on {action.node}" if action.model else f"{action.kind} {action.node}"
        self.say(f"{'advice: ' if action.advice else ''}{what}, because {action.reason}")
        self.orders[action.action_id] = action
        if action.advice:
            self._result(action.action_id, "advised")
            return
        if action.kind == "abort":
            for number in [n for n, (_, node, _) in self.attempts.items() if node == action.node]:
                self._ended(number, "aborted", 0)
        if action.kind in ("abort", "drain", "return", "shift"):
            self._result(action.action_id, "done")


def run(lines: Iterable[str]) -> list[str]:
    """A transcript with what the policy does now below each command. Comments and empty lines stay."""
    bench = Bench()
    written: list[str] = []
    for line in lines:
        if line.startswith("    "):
            continue
        written.append(line)
        if line and not line.startswith("#"):
            written += [f"    {said}" for said in bench.do(line)]
    return written
