"""The table of the promises: the words, the scenarios in which they are looked for, the limits."""

from __future__ import annotations

from dataclasses import dataclass

NODE_COUNTS = (2, 3, 5, 8, 10, 15, 100, 1000)
LIVE_NODE_COUNTS = (2, 3, 5)
RATE_PER_NODE_RPS = 1.5
"""About 80 % of what a node of the scenario carries."""


@dataclass(frozen=True, slots=True)
class Part:
    """A scenario in which a promise is looked for. `live`: what is set there in the live world; None: not run there."""

    key: str
    file: str
    changes: tuple[str, ...] = ()
    replications: int = 20
    baseline_replications: int = 20
    live: tuple[str, ...] | None = None
    timed: bool = False  # measure the processor time of the policy
    baselines: tuple[str, ...] = ("none", "reactive")


@dataclass(frozen=True, slots=True)
class Promise:
    """One of the seven. `promised` are the words as they were given to the operators."""

    number: int
    promised: str
    parts: tuple[Part, ...]


POLICY_CHANGES: dict[str, tuple[str, ...]] = {
    "default": ("policy.preset=default",),
    "reactive": ("policy.preset=reactive",),
    "none": ("policy.preset=none",),
    "none, same router": ("policy.preset=none", "policy.router.kind=loaded_first"),
}
"""What is set for each policy that is looked at."""

_NO_JOURNAL = "record.journal=false"
_SHORT_LIVE = (
    "cluster.nodes=3",
    "workload.warmup_s=10",
    "workload.duration_s=80",
    "faults.0.at_s=25",
    "faults.0.duration_s=40",
)
"""A minute and a half for each live run, instead of three and a half."""


def _scale(nodes: int) -> Part:
    """The cluster without faults at `nodes` nodes, each with the same load."""
    long_s = 20000.0 / (RATE_PER_NODE_RPS * nodes)
    duration_s = max(60.0, min(600.0, long_s))
    changes = (
        _NO_JOURNAL,
        f"cluster.nodes={nodes}",
        f"cluster.models.llama3.1:8b.replicas={nodes}",
        f"workload.arrivals.rate_rps={RATE_PER_NODE_RPS * nodes:g}",
        f"workload.duration_s={duration_s:g}",
    )
    live = (f"live.rate_rps={0.8 * nodes:g}", "workload.warmup_s=10", "workload.duration_s=60")
    few = nodes > 15
    return Part(
        f"scale-{nodes}",
        "no-fault.yaml",
        changes,
        replications=3 if few else 10,
        baseline_replications=3,
        live=live if nodes in LIVE_NODE_COUNTS else None,
        timed=True,
        baselines=() if few else ("none", "reactive"),
    )


PROMISES: tuple[Promise, ...] = (
    Promise(
        1,
        "Every admitted request succeeds, under massive failure too",
        (
            Part("half", "half-of-twelve.yaml", (_NO_JOURNAL,), live=()),
            Part("beyond", "beyond-capacity.yaml", (_NO_JOURNAL,), live=()),
        ),
    ),
    Promise(
        2,
        "A single node recovers within 30 to 60 s",
        (
            Part("crash", "node-crash.yaml", (_NO_JOURNAL,), replications=100, live=_SHORT_LIVE),
            Part("hang", "runner-hang.yaml", (_NO_JOURNAL,), replications=100, live=_SHORT_LIVE),
            Part("grey", "grey-network.yaml", (_NO_JOURNAL,), replications=100, live=_SHORT_LIVE),
        ),
    ),
    Promise(
        3,
        "A cascade of failures is recovered from within 2 to 5 min",
        (
            Part(
                "cascade",
                "cascade.yaml",
                (_NO_JOURNAL,),
                replications=100,
                live=("live.output_tokens={kind: lognormal, mean: 60, cv: 0.8}", "workload.duration_s=210"),
            ),
        ),
    ),
    Promise(4, "Failures are predicted with an accuracy of 80 % and more", ()),
    Promise(
        5,
        "Healing succeeds in 95 % of all cases",
        (Part("hours", "failures-for-hours.yaml", baseline_replications=3),),
    ),
    Promise(
        6,
        "Fault tolerance costs less than 5 %",
        (
            Part(
                "quiet",
                "no-fault.yaml",
                # A plain proxy would load the model on every node; so it is there from the start for both.
                (_NO_JOURNAL, "cluster.models.llama3.1:8b.replicas=5", "workload.arrivals.rate_rps=7"),
                live=("cluster.nodes=3", "cluster.models.llama3.1:8b.replicas=3", "workload.duration_s=120"),
                timed=True,
                baselines=("reactive", "none", "none, same router"),
            ),
        ),
    ),
    Promise(
        7,
        "Throughput grows linearly over 2 to 15 nodes and beyond, with health checks of milliseconds",
        tuple(_scale(nodes) for nodes in NODE_COUNTS),
    ),
)

TTR_SINGLE_S = 60.0
TTR_CASCADE_S = 300.0
HEALED_SHARE = 0.95
OVERHEAD_SHARE = 0.05
LINEAR_SHARE = 0.95
HEALTH_CHECK_MS = 1.0
RECALL = 0.80
FALSE_A_NODE_DAY = 0.05

OWN_TTM_S = {"crash": 2.0, "hang": 5.0, "grey": 15.0}
OWN_TTR_SINGLE_S = 10.0  # plus the time of a load
OWN_TTR_CASCADE_S = 60.0
OWN_HEALED_SHARE = 0.99
RELAPSE_S = 1800.0
SOON_S = 60.0
