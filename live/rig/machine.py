"""The hardware of a node on a shared machine: the cores it is pinned to, and a cgroup of its own.

A CPU quota is a thermal throttle, a memory limit a true out-of-memory kill, the freezer a hang of the whole node.
Pinning is for anything that is compared; quotas are for faults, because a quota does not repeat well.
"""

import functools
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from live.rig.errors import RigError

CONTROLLERS = ("cpu", "memory", "freezer")
# Short periods let a node stutter by milliseconds rather than stop for a tenth of a second at a time.
CPU_PERIOD_US = 10_000
# The kernel refuses a smaller quota.
SMALLEST_QUOTA_US = 1_000


class NotPermitted(RigError):
    """This machine does not permit what was asked of a node's hardware; the message says what, and what would."""


@cache
def usable_cores() -> list[int]:
    """The cores that this process could use when it first asked; it may pin itself to fewer later, and its nodes to
    the others. Empty where the system has no notion of pinning (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(pid: int, cores: Sequence[int]) -> None:
    """Pins a process with all its threads and descendants to `cores`; what it starts later inherits that.

    Raises NotPermitted where the cores do not exist or the system cannot pin. Processes that end meanwhile are skipped.
    """
    _require_pinning(cores)
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        _pin_threads(member.pid, cores)


def pin_itself(cores: Sequence[int]) -> None:
    """Pins this process with all its threads, but none of its descendants. Raises NotPermitted."""
    _require_pinning(cores)
    _pin_threads(os.getpid(), cores)


def _pin_threads(pid: int, cores: Sequence[int]) -> None:
    # The system call knows threads, not processes.
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:
            continue


@contextmanager
def pinned_thread(cores: Sequence[int] | None) -> Iterator[None]:
    """Pins the calling thread while the context lasts, so that a process started in it is born pinned.

    Born pinned matters: Go counts its cores once, at the start. None means: as it is.
    """
    if cores is None:
        yield
        return
    _require_pinning(cores)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _require_pinning(cores: Sequence[int]) -> None:
    usable = usable_cores()
    if not usable:
        raise NotPermitted("nodes cannot be pinned to cores on this system; leave the cores out")
    if not cores or not set(cores) <= set(usable):
        raise NotPermitted(f"cores {list(cores)} are not all usable here; choose from {usable}")


@dataclass(frozen=True)
class CgroupSupport:
    """What this machine permits: the folder under which each controller's cgroups can be made, and what is missing."""

    version: int
    """1 or 2; 0 where nothing is permitted."""
    parents: Mapping[str, Path]
    """Controller ("cpu", "memory", "freezer") to the folder in which the rig may make its own cgroups."""
    refused: str
    """One line for the record on what is not permitted and why; empty where everything is."""


@functools.cache
def cgroup_support() -> CgroupSupport:
    """Finds out by trying, once per process: makes a cgroup, moves a child into it, and removes both."""
    mounts = _cgroup_mounts()
    own = _own_cgroups()
    parents: dict[str, Path] = {}
    version = 1 if any(controller in mounts for controller in CONTROLLERS) else 2
    if version == 1:
        for controller in CONTROLLERS:
            if controller in mounts:
                candidates = _ancestors(mounts[controller], own.get(controller, "/"))
                parents |= next(({controller: c} for c in candidates if _permits(c)), {})
    elif "" in mounts:
        # A process is in one cgroup only, so one folder must serve all controllers: the nearest with most of them.
        best: Path | None = None
        best_count = 0
        for candidate in _ancestors(mounts[""], own.get("", "/")):
            enabled = _v2_controllers(candidate)
            if len(enabled) > best_count and _permits(candidate):
                best, best_count = candidate, len(enabled)
        if best is not None:
            parents = dict.fromkeys(_v2_controllers(best), best)
    missing = [controller for controller in CONTROLLERS if controller not in parents]
    if not missing:
        return CgroupSupport(version, parents, "")
    why = "this system has no cgroups" if not mounts else "needs root, or a delegated cgroup"
    refused = f"not permitted for nodes: {', '.join(missing)} cgroup ({why}); they share what it would have divided"
    return CgroupSupport(version if parents else 0, parents, refused)


def _cgroup_mounts() -> dict[str, Path]:
    """Controller to mount point of its version 1 hierarchy; the empty string stands for version 2."""
    found: dict[str, Path] = {}
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("", Path(folder))
        elif kind == "cgroup":
            for option in options.split(","):
                if option in CONTROLLERS:
                    found.setdefault(option, Path(folder))
    return found


def _own_cgroups() -> dict[str, str]:
    """Controller to this process's own path in its hierarchy; the empty string stands for version 2."""
    paths: dict[str, str] = {}
    table = Path("/proc/self/cgroup")
    for line in table.read_text().splitlines() if table.exists() else []:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _ancestors(mount: Path, path: str) -> list[Path]:
    """This process's own cgroup and the ones above it, nearest first; in a container the path may lie outside."""
    own = mount / path.lstrip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(mount) and folder.is_dir()]


def _v2_controllers(folder: Path) -> list[str]:
    """What a child of a version 2 cgroup can control; the freezer is part of every one of them."""
    control = folder / "cgroup.subtree_control"
    enabled = control.read_text().split() if control.exists() else []
    return [controller for controller in CONTROLLERS if controller == "freezer" or controller in enabled]


def _permits(parent: Path) -> bool:
    folder = parent / f"ollamamax-probe-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        return False
    try:
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                (folder / "cgroup.procs").write_text(str(child.pid))
            finally:
                child.kill()
    except OSError:
        return False
    finally:
        remove_cgroup(folder)
    return True


@dataclass
class Cgroup:
    """The cgroup of one node: quota, memory limit and freezer, where the machine permits them.

    `create` makes it; each method raises NotPermitted where its controller is not to be had. The owner must call
    `remove` when the node's processes have ended.
    """

    version: int
    folders: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def plan(cls, name: str) -> "Cgroup":
        """Says where the cgroup of the node `name` would lie, so that it can be noted down before it is made."""
        support = cgroup_support()
        return cls(support.version, {c: parent / f"ollamamax-{name}" for c, parent in support.parents.items()})

    def create(self) -> None:
        """Makes it; does nothing where nothing is permitted."""
        for folder in set(self.folders.values()):
            folder.mkdir(exist_ok=True)

    def add(self, pid: int) -> None:
        """Moves a process with its threads into it; what the process starts from then on is in it too."""
        for folder in set(self.folders.values()):
            try:
                _write(folder / "cgroup.procs", str(pid))
            except ProcessLookupError:
                return  # it has ended already

    def set_cpu_quota(self, core_share: float) -> None:
        """Holds all that is in it to a share of one core: 0.2 is a fifth of a core, 1.5 one and a half."""
        if core_share <= 0:
            raise RigError(f"a CPU quota of {core_share:g} cores would stop the node; use freeze for that")
        period_us = max(CPU_PERIOD_US, round(SMALLEST_QUOTA_US / core_share))
        self._set_quota(round(core_share * period_us), period_us)

    def clear_cpu_quota(self) -> None:
        """Gives it the whole machine again."""
        self._set_quota(None, CPU_PERIOD_US)

    def _set_quota(self, quota_us: int | None, period_us: int) -> None:
        folder = self._folder("cpu")
        if self.version == 2:
            _write(folder / "cpu.max", f"{'max' if quota_us is None else quota_us} {period_us}")
            return
        # The kernel checks the pair at each write: without a quota in between, any period is accepted.
        _write(folder / "cpu.cfs_quota_us", "-1")
        _write(folder / "cpu.cfs_period_us", str(period_us))
        if quota_us is not None:
            _write(folder / "cpu.cfs_quota_us", str(quota_us))

    def set_memory_limit(self, limit_bytes: int) -> None:
        """From now on the kernel kills what is in it when it needs more memory than this.

        With cgroups of version 1 the kernel refuses a limit below what is in use and cannot be freed. What has just
        been freed still counts for a moment, so this tries for half a second (blocking) before it raises RigError.
        """
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        deadline_s = time.monotonic() + 0.5
        while True:
            try:
                _write(self._folder("memory") / name, str(limit_bytes))
                return
            except RigError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)

    def clear_memory_limit(self) -> None:
        """Takes the memory limit away."""
        name, none = ("memory.max", "max") if self.version == 2 else ("memory.limit_in_bytes", "-1")
        _write(self._folder("memory") / name, none)

    def freeze(self) -> None:
        """Stops everything in it, as a hang of the machine would; not even SIGKILL is acted on until `thaw`."""
        set_frozen(self._folder("freezer"), frozen=True)

    def thaw(self) -> None:
        """Lets it run on."""
        set_frozen(self._folder("freezer"), frozen=False)

    def remove(self) -> None:
        """Thaws and removes it; blocks for up to a second while ended processes leave. Raises RigError if some stay."""
        for folder in set(self.folders.values()):
            remove_cgroup(folder)

    def _folder(self, controller: str) -> Path:
        if controller not in self.folders:
            raise NotPermitted(cgroup_support().refused)
        return self.folders[controller]


def _write(control: Path, value: str) -> None:
    try:
        control.write_text(value)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise RigError(f"{control} does not take {value}: {error.strerror}; see what the cgroup holds") from error


def set_frozen(folder: Path, *, frozen: bool) -> None:
    """Freezes or thaws a cgroup folder of either version; one without a freezer is left as it is."""
    for name, values in (("freezer.state", ("THAWED", "FROZEN")), ("cgroup.freeze", ("0", "1"))):
        if (folder / name).exists():
            (folder / name).write_text(values[frozen])


def remove_cgroup(folder: Path, limit_s: float = 1.0) -> None:
    """Thaws and removes a cgroup folder that may be gone already; waits up to `limit_s` until ended processes left it.

    Raises RigError where processes stay in it.
    """
    deadline_s = time.monotonic() + limit_s
    while folder.exists():
        try:
            set_frozen(folder, frozen=False)
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise RigError(f"cgroup {folder} cannot be removed ({error.strerror}); end what runs in it") from error
            time.sleep(0.01)
