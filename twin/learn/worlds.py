"""The worlds in which the predictor is trained and measured, drawn by number.

Training, calibration and test worlds differ on purpose: other machines, other loads, other parameters of the faults. The
held-out worlds have kinds of faults that no training world has. In some test worlds nobody repairs anything (untreated).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np

from twin.learn.truth import CLASS_OF_KIND, FORETELLABLE
from twin.scenario.draws import stream
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.models import MODELS
from twin.scenario.profiles import PROFILES
from twin.scenario.schema import Scenario
from twin.scenario.swarm import parameters_of

Split: TypeAlias = Literal["training", "calibration", "test", "untreated", "held_out", "sudden", "without_signs"]

HELD_OUT_KINDS = ("orphan_runner", "long_prompt_crash", "load_stall")
"""Kinds that no training and no calibration world has."""

TRAINING_HARDWARE = ("rtx-3090", "rtx-4080", "rtx-4090", "l4", "a100", "m1-max", "m2-ultra")
TEST_HARDWARE = ("rtx-4060-ti", "rtx-5090", "a10", "h100", "m3-max", "rtx-3060")

LENGTH_S = 10_800.0
WARMUP_S = 600.0
TELEMETRY_PERIOD_S = 20.0
"""As often as the default policy looks."""
TIME_BETWEEN_EPISODES_S = 5_400.0
"""Mean, on each node: worlds are accelerated, a real node would take weeks."""
LOOK_ALIKE_SHARE = 0.1
SUDDEN_SHARE = 0.15
"""Of the kinds that can show beforehand: episodes that come to nothing, and failures without a sign."""
OTHER_SHARE = 0.3
"""Episodes of kinds that never show, or belong to no class."""
LOAD_PATH_SHARE = 0.5
"""Assumption: of the clusters, those whose operator has set `probes.load_path_model`. It is off by default, and what it asks
for is one small model on every node's disk."""
LOAD_PATH_MODEL = "llama3.2:1b"
SEED = 20_260


class _Between:
    """A generator whose draws lie in the inner half of [0, 1), or in the outer quarters: other parameters of faults."""

    def __init__(self, random: np.random.Generator, *, inner: bool) -> None:
        self._random = random
        self._inner = inner

    def random(self) -> float:
        """One draw."""
        luck = float(self._random.random())
        if self._inner:
            return 0.25 + 0.5 * luck
        return 0.5 * luck if luck < 0.5 else 0.5 + 0.5 * luck


def world(split: Split, number: int) -> tuple[Scenario, int]:
    """A scenario with its seed. The same split and number give the same."""
    seed = SEED + number
    draws = stream(seed, f"world:{split}")
    trains = split in ("training", "calibration")
    names = TRAINING_HARDWARE if trains else TEST_HARDWARE
    hardware = names[int(draws.integers(len(names)))]
    nodes = int(draws.integers(4, 7)) if trains else int(draws.integers(5, 9))
    machine = PROFILES[hardware]
    chats = [name for name, it in MODELS.items() if not it.embedding and 1.0 < it.size_gib < 0.4 * machine.vram_gib]
    models = [chats[int(place)] for place in draws.permutation(len(chats))[: int(draws.integers(1, 3))]]
    tokens = float(draws.uniform(100, 250))
    step_s = machine.decode_ms[0] / 1000.0
    lowest, highest = (0.1, 0.4) if trains else (0.05, 0.6)
    each_rps = min(float(draws.uniform(lowest, highest)) / (tokens * step_s), 0.6)
    rate_rps = each_rps * nodes
    kind = int(draws.integers(2))
    arrivals: dict[str, Any] = {"kind": "poisson", "rate_rps": round(rate_rps, 3)}
    if trains and kind:
        arrivals = {"kind": "bursty", "rate_rps": round(rate_rps, 3), "cv": 2.0}
    elif not trains and kind:
        arrivals = {"kind": "bursty", "rate_rps": round(rate_rps, 3), "cv": 3.0}
    document: dict[str, Any] = {
        "schema": 1,
        "name": f"{split.replace('_', '-')}-{number}",
        "claim": "What fails shows beforehand, or does not.",
        "cluster": {
            "nodes": nodes,
            "hardware": hardware,
            "models": {model: {"replicas": max(2, nodes - int(draws.integers(0, 3)))} for model in models},
            "slots_per_model": int(draws.integers(2, 5)),
            # Where models are let go after a while, loads are an everyday thing, and slow ones can be told.
            "keep_alive_s": round(float(draws.uniform(60.0, 300.0)), 1) if draws.random() < 0.5 else None,
            "agents": {"missing_share": 0.01, "late_share": 0.01},
        },
        "workload": {
            "arrivals": arrivals,
            "prompt_tokens": {"kind": "lognormal", "mean": float(draws.uniform(100, 600)), "cv": 1.0},
            "output_tokens": {"kind": "lognormal", "mean": tokens, "cv": 0.8},
            "deadline_s": 90,
            "warmup_s": WARMUP_S,
            "duration_s": LENGTH_S,
        },
        "policy": {
            "preset": "default",
            "overrides": {"predictor.enabled": False, "healer.enabled": split != "untreated"},
        },
        "faults": _faults(split, seed, nodes, machine.vram_gib),
        "record": {"journal": False, "telemetry_period_s": TELEMETRY_PERIOD_S},
        "seed": seed,
    }
    probe: dict[str, Any] = {}
    asks = float(stream(seed, f"world:{split}:load-path").random()) < LOAD_PATH_SHARE
    if asks and LOAD_PATH_MODEL not in models:  # one that is served is loaded anyway
        document["policy"]["overrides"]["probes.load_path_model"] = LOAD_PATH_MODEL
        document["workload"]["models"] = dict.fromkeys(models, 1.0)
        probe = {LOAD_PATH_MODEL: {"replicas": 0}}
    served = document["cluster"]["models"]
    document["cluster"]["models"] = served | probe
    try:
        return Scenario.model_validate(document), seed
    except ValueError:  # two models that do not fit beside each other
        document["cluster"]["models"] = dict(list(served.items())[:1]) | probe
        if probe:
            document["workload"]["models"] = dict.fromkeys(models[:1], 1.0)
        return Scenario.model_validate(document), seed


def _faults(split: Split, seed: int, nodes: int, vram_gib: float) -> list[dict[str, Any]]:
    """Each node has a row of episodes, one after the other."""
    known = [kind for kind in FORETELLABLE if kind not in HELD_OUT_KINDS]
    shows = list(HELD_OUT_KINDS) if split == "held_out" else known
    others = [
        kind
        for kind, it in FAULT_KINDS.items()
        if it.about.part == "node" and kind not in FORETELLABLE and kind not in ("rack_failure", "address_change")
    ]
    if split == "sudden":
        others = [kind for kind in others if kind in CLASS_OF_KIND]
    found = []
    for place in range(nodes):
        draws = stream(seed, f"world:{split}:node-{place}")
        how = _Between(draws, inner=split in ("training", "calibration"))
        now_s = WARMUP_S + float(draws.uniform(0.0, TIME_BETWEEN_EPISODES_S / 2))
        while True:
            now_s += float(draws.exponential(TIME_BETWEEN_EPISODES_S - 1200.0)) + 600.0
            luck = float(draws.random())
            fate = float(draws.random())
            lasts_s = float(draws.uniform(60.0, 240.0))
            lead_s = math.exp(float(draws.uniform(math.log(90.0), math.log(900.0))))
            if luck < OTHER_SHARE and split != "held_out":
                kind, lead_s = others[int(draws.integers(len(others)))], 0.0
            else:
                kind = shows[int(draws.integers(len(shows)))]
                if split == "sudden" or fate < SUDDEN_SHARE:
                    lead_s = 0.0
            fault: dict[str, Any] = {"kind": kind, **parameters_of(FAULT_KINDS[kind], how), "target": f"node-{place}"}
            for key in ("leaked_gib", "held_gib"):
                if key in fault:
                    fault[key] = round(vram_gib * (0.5 + 0.4 * how.random()), 3)
            if kind in ("foreign_load", "embedding_starvation"):
                fault = {"kind": kind, "target": f"node-{place}"}
            at_s = now_s + lead_s
            if at_s + lasts_s > WARMUP_S + LENGTH_S - 300.0:
                break
            fault |= {"at_s": round(at_s, 3), "duration_s": round(lasts_s, 3)}
            if lead_s and split != "without_signs":
                fault["lead_s"] = round(lead_s, 3)
                if SUDDEN_SHARE <= fate < SUDDEN_SHARE + LOOK_ALIKE_SHARE:
                    fault["comes_to_nothing"] = True
            found.append(_valid(fault))
            now_s = at_s + lasts_s + 600.0
    found.sort(key=lambda fault: float(fault["at_s"]))
    return found


def _valid(fault: dict[str, Any]) -> dict[str, Any]:
    """The fault; with the defaults of its kind where the parameters drawn do not go together."""
    try:
        FAULT_KINDS[fault["kind"]].model_validate(fault)
    except ValueError:
        own = ("kind", "at_s", "duration_s", "target", "lead_s", "comes_to_nothing")
        return {key: value for key, value in fault.items() if key in own}
    return fault
