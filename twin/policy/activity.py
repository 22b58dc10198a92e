"""Busy is not dead: whether a node's machine works while nothing comes from it.

Somebody else's requests may have taken every slot of a node (ollama/ollama issue 7758: what queues inside it is not bounded
and not shown), or have it load one model after the other (issues 8903, 12783). Its server answers, and a token for us comes
after them. From outside that looks like a runner that hangs. A machine that is read tells them apart: a runner that hangs
leaves GPU and disk idle. (One that spins does not, and weights that are cached are read from no disk: so the belief that a
node is crowded ends after `CROWDED_MAX_S`, and where nothing can be read a silent node is taken for hung, as before.)

The machine says more: whether there is room for another model at all, whether processes of Ollama are there that belong to
no model (issues 5642, 7927: runners that outlived their server), whether a load has begun and gets no weights (issue 4131),
and whether models lie in main memory that used to lie in the GPU's (issues 8594, 17870).
"""

from __future__ import annotations

from typing import Any, Final

from twin.policy.views import NodeView
from twin.policy.vocabulary import FIT_SHARE, NEVER_S, TelemetrySample

CROWDED_UTILISATION: Final = 0.9
"""Mean over a sampling period from which on the GPU has worked all the time."""

LOADING_MIB_PER_S: Final = 50.0
"""Assumption: a machine that serves models reads that much from its disks only while it loads one."""

GPU_HOLDS_GIB: Final = 0.1
"""GPU memory of the loaded models, from which on the GPU is in use."""

ORPHANED_S: Final = 60.0
"""A process too many for this long is no load and no search for GPUs."""

ORPHAN_HOLDS_GIB: Final = 1.0
"""What /api/ps does not list of the memory in use, from which on a process too many is a runner with a model."""

FRESH_S: Final = 25.0
"""A sample older than this says nothing of now (of nodes that are well one comes every 20 s, of others every one)."""

TELLS_WITHIN_S: Final = 6.0
"""A node that is silent is not restarted before its machine was looked at, where that happens within this time."""

CROWDED_MAX_S: Final = 1800.0
"""Assumption: a node that gives us nothing for half an hour is repaired, however busy it seems."""


class Activity:
    """The last that was read of each node's machine."""

    def __init__(self) -> None:
        self.works: dict[str, bool] = {}  # without a pause, as far as the last sample says
        self.loads: dict[str, bool] = {}
        self.stood_s: dict[str, float] = {}  # when a runner was seen last that was being loaded while no disk was read
        self.free_gib: dict[str, float] = {}  # GPU memory that nobody uses
        self.on_gpu: dict[str, bool] = {}  # whether its loaded models have GPU memory
        self.had_gpu: set[str] = set()  # where they once had
        self.orphans: dict[str, tuple[float, float]] = {}  # since when, and by which sample they were seen last
        self.sampled_s: dict[str, float] = {}

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """Take in a sample."""
        name, values = sample.node, sample.values
        reads = values.get("disk_read_mib_per_s", 0.0)
        self.sampled_s[name] = now
        self.loads[name] = reads >= LOADING_MIB_PER_S
        being_loaded = values.get("ollama_processes", 0.0) - 1.0 - values.get("ollama_resident_models", NEVER_S)
        if being_loaded >= 1.0 and not self.loads[name]:
            self.stood_s[name] = now
        self.works[name] = values.get("gpu_utilisation", 0.0) >= CROWDED_UTILISATION or self.loads[name]
        listed_gib = values.get("ollama_vram_gib")
        if listed_gib is not None and values.get("ollama_resident_models", 0.0) >= 1.0:
            self.on_gpu[name] = listed_gib >= GPU_HOLDS_GIB
            if self.on_gpu[name]:
                self.had_gpu.add(name)
        used_gib = values.get("vram_used_gib")
        total_gib = values.get("vram_total_gib")
        if used_gib is None or total_gib is None:
            self.free_gib.pop(name, None)
            return
        self.free_gib[name] = total_gib - used_gib
        self._look_for_orphans(now, name, used_gib, values)

    def _look_for_orphans(self, now: float, name: str, used_gib: float, values: dict[str, float]) -> None:
        processes = values.get("ollama_processes", 0.0)
        resident = values.get("ollama_resident_models")
        if resident is None and processes:
            return  # the server says nothing: whose the processes are will be seen when it does
        hidden_gib = used_gib - values.get("ollama_vram_gib", used_gib)
        if resident is None or processes - 1.0 - resident < 1.0 or hidden_gib < ORPHAN_HOLDS_GIB:
            self.orphans.pop(name, None)
            return
        since_s, seen_s = self.orphans.get(name, (now, now))
        self.orphans[name] = (since_s if now - seen_s <= ORPHANED_S else now, now)

    def crowded(self, now: float, node: NodeView) -> bool:
        """Whether its machine has worked without a pause since the node gave something last."""
        sampled_s = self.sampled_s.get(node.name, -NEVER_S)
        return node.last_passed_s < sampled_s >= now - FRESH_S and self.works[node.name]

    def may_tell(self, now: float, node: NodeView, since_s: float) -> bool:
        """Whether a sample that says so is still to come: the node is read, and was not since it gave something last."""
        sampled_s = self.sampled_s.get(node.name, -NEVER_S)
        return sampled_s <= node.last_passed_s and now - sampled_s <= FRESH_S and now - since_s < TELLS_WITHIN_S

    def loading(self, now: float, node: NodeView) -> bool:
        """Whether its disks give what must be the weights of a model."""
        return now - self.sampled_s.get(node.name, -NEVER_S) <= FRESH_S and self.loads[node.name]

    def stands_still(self, node: NodeView, since_s: float) -> bool:
        """Whether its machine shows since then that a load has begun and gets no weights: then its scheduler is well, and a
        new one would get none either. (One whose scheduler is stuck begins no load; an orphan was there before.)"""
        orphan_s, _ = self.orphans.get(node.name, (NEVER_S, 0.0))
        return self.stood_s.get(node.name, -NEVER_S) >= since_s <= orphan_s

    def was_read(self, node: NodeView, since_s: float) -> bool:
        """Whether its machine was looked at since then."""
        return self.sampled_s.get(node.name, -NEVER_S) >= since_s

    def is_read(self, now: float, node: NodeView) -> bool:
        """Whether its machine is looked at, again and again."""
        return now - self.sampled_s.get(node.name, -NEVER_S) <= FRESH_S

    def without_gpu(self, node: NodeView) -> bool:
        """Whether its models lie in main memory, where they used to lie in the GPU's: it serves from its processor."""
        return node.name in self.had_gpu and not self.on_gpu.get(node.name, True)

    def with_gpu(self, node: NodeView) -> bool:
        """Whether its machine has shown since it was repaired last that its models lie in GPU memory."""
        return self.on_gpu.get(node.name, False)

    def has_room(self, node: NodeView, memory_gib: float) -> bool:
        """Whether one more model fits beside what is there, as far as is known: else a load waits for others to go."""
        free_gib = self.free_gib.get(node.name)
        return free_gib is None or FIT_SHARE * free_gib >= memory_gib

    def orphan(self, now: float, node: NodeView) -> str:
        """In words, that a process of Ollama without a model holds memory for long; empty: none does."""
        since_s, seen_s = self.orphans.get(node.name, (now, now))
        if seen_s - since_s < ORPHANED_S or now - seen_s > FRESH_S:
            return ""
        return f"a process of Ollama that no model belongs to has held GPU memory for {seen_s - since_s:.0f} s"

    def snapshot(self, now: float) -> dict[str, Any]:
        """Plain data."""
        return {
            "works": dict(self.works),
            "loads": dict(self.loads),
            "on_gpu": dict(self.on_gpu),
            "had_gpu": sorted(self.had_gpu),
            "free_gib": dict(self.free_gib),
            "orphans_s_ago": {name: [now - since_s, now - seen_s] for name, (since_s, seen_s) in self.orphans.items()},
            "stood_s_ago": {name: now - stood_s for name, stood_s in self.stood_s.items()},
            "sampled_s_ago": {name: now - sampled_s for name, sampled_s in self.sampled_s.items()},
        }

    def restore(self, now: float, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.works = {str(name): bool(works) for name, works in known["works"].items()}
        self.loads = {str(name): bool(loads) for name, loads in known["loads"].items()}
        self.on_gpu = {str(name): bool(is_there) for name, is_there in known["on_gpu"].items()}
        self.had_gpu = {str(name) for name in known["had_gpu"]}
        self.free_gib = {str(name): float(gib) for name, gib in known["free_gib"].items()}
        self.orphans = {
            str(name): (now - float(since_s), now - float(seen_s))
            for name, (since_s, seen_s) in known["orphans_s_ago"].items()
        }
        self.stood_s = {str(name): now - float(ago_s) for name, ago_s in known["stood_s_ago"].items()}
        self.sampled_s = {str(name): now - float(ago_s) for name, ago_s in known["sampled_s_ago"].items()}

    def forget(self, node: str) -> None:
        """After a repair: what was read before says nothing of now. But an orphan outlives a new server, too."""
        self.free_gib.pop(node, None)
        self.on_gpu.pop(node, None)
        self.sampled_s.pop(node, None)

    def runners_gone(self, node: str) -> None:
        """The runners of the node were killed, orphans with them."""
        self.orphans.pop(node, None)
