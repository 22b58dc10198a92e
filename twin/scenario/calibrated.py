"""Machines that were measured: a profile's file in a scenario, and what lies outside of what was measured.

A scenario names the file where a machine is named (`cluster.hardware: measured.yaml`, relative to the scenario's file). What
stands in it is put in its place when the scenario is loaded, so that a manifest and a digest have all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twin.errors import OperatorError
from twin.scenario.hardware import Calibration, Hardware

if TYPE_CHECKING:
    from twin.scenario.schema import Scenario

ENDINGS = (".yaml", ".yml")
SLACK = 1.05
"""A mean length may be so many times the largest that was seen before it counts as outside."""


def put_profiles(document: dict[str, Any], folder: Path) -> None:
    """Replace each file that stands for a machine by its content. Raises `OperatorError`."""
    cluster = document.get("cluster")
    if not isinstance(cluster, dict):
        return
    if _is_file(cluster.get("hardware")):
        profile = read_profile(folder / cluster["hardware"])
        cluster["hardware"] = profile["hardware"]
        of_cluster = profile.get("cluster", {})
        for key in ("restart_s", "restart_cv", "load_cv", "hosts"):
            if key in of_cluster:
                cluster.setdefault(key, of_cluster[key])
        if isinstance(cluster.setdefault("network", {}), dict):
            for key, value in of_cluster.get("network", {}).items():
                cluster["network"].setdefault(key, value)
    for group in cluster.get("groups") or []:
        if isinstance(group, dict) and _is_file(group.get("hardware")):
            group["hardware"] = read_profile(folder / group["hardware"])["hardware"]


def _is_file(value: object) -> bool:
    return isinstance(value, str) and value.endswith(ENDINGS)


def read_profile(path: Path) -> dict[str, Any]:
    """What `ollamamax calibrate` wrote. Raises `OperatorError`."""
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise OperatorError(
            f"{path}: {reason}; `ollamamax calibrate RUN... --out {path.name}` writes a profile"
        ) from error
    except yaml.YAMLError as error:
        raise OperatorError(f"{path}: no valid YAML; `ollamamax calibrate` writes a profile") from error
    if not isinstance(profile, dict) or profile.get("profile") != 1 or not isinstance(profile.get("hardware"), dict):
        raise OperatorError(f"{path}: no profile of this version (profile: 1, hardware: ...); calibrate again")
    return profile


class _Range(BaseModel):
    range: list[float] | None


class _Value(BaseModel):
    value: float


class _Measured(BaseModel):
    restart_s: _Range
    beside_prompt_steps: Annotated[list[_Value], Field(min_length=1, max_length=1)] = [_Value(value=0.0)]


class _Network(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    latency_ms: Annotated[float, Field(ge=0)]


class _OfCluster(BaseModel):
    network: _Network


class _CalibratedHardware(Hardware):
    calibration: Calibration


class _Profile(BaseModel):
    """What a profile must have to be held against live runs; other keys are for people."""

    name: str
    hardware: _CalibratedHardware
    cluster: _OfCluster
    measured: _Measured


def read_measured(path: Path) -> dict[str, Any]:
    """A profile with all that live runs are held against. Raises `OperatorError`."""
    profile = read_profile(path)
    try:
        _Profile.model_validate(profile)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise OperatorError(f"{path}: {where}: {first['msg']}; calibrate again") from error
    return profile


def outside(scenario: Scenario) -> list[str]:
    """What the scenario asks of a calibrated machine that nobody measured, each in words; empty where there is nothing."""
    cluster, workload = scenario.cluster, scenario.workload
    found: dict[str, Calibration] = {}
    for hardware in cluster.hardware_of_nodes():
        it = hardware.calibration
        if it is not None and not it.extrapolate:
            found[it.name] = it
    said: list[str] = []
    for name, it in found.items():
        wanted = max(cluster.slots_of(model) for model in cluster.models)
        if wanted > it.batch_max:
            said.append(f"{name} was measured with at most {it.batch_max} sequences in a batch, not {wanted}")
        each = 1 if cluster.hosts is None else cluster.hosts.nodes_each
        if each > it.nodes_each:
            said.append(f"{name} was measured with {it.nodes_each} nodes on a host, not {each}")
        for key, bounds in (("prompt_tokens", it.prompt_tokens), ("output_tokens", it.output_tokens)):
            mean = getattr(getattr(workload, key), "mean", None)
            if mean is not None and not bounds[0] / SLACK <= mean <= bounds[1] * SLACK:
                said.append(
                    f"{name} was measured with {key} mostly from {bounds[0]:g} to {bounds[1]:g}, not {mean:g} on average"
                )
        said += [f"{name} was not measured with {model}" for model in cluster.models if model not in it.models]
    return said
