"""Every example of docs/workloads.md is a scenario, and draws something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenario.documents import document
from twin.scenario.demand import Demand
from twin.scenario.durations import Duration
from twin.scenario.generator_kinds import FaultGenerator
from twin.scenario.generators import expanded
from twin.scenario.loader import load
from twin.scenario.workload import Arrivals, Length

PAGE = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("place", range(len(EXAMPLES)))
def test_an_example_of_the_page_can_be_loaded_and_draws_something(place: int, tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text(
        "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{n},100,20\n" for n in range(2000))
    )
    whole = document(workload__duration_s=3000)
    for part, keys in EXAMPLES[place].items():
        whole[part] = whole[part] | keys if isinstance(keys, dict) else keys
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(whole))
    it = load(tmp_path / "small.yaml")
    assert sum(1 for _ in Demand(it, 1).openings()) > 0
    assert not it.fault_generators or expanded(it, 1).faults


@pytest.mark.parametrize("union", [Arrivals, Length, Duration, FaultGenerator])
def test_the_page_has_an_example_of_each_kind(union: Any) -> None:
    from typing import get_args

    kinds = [get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(union)[0])]
    assert len(kinds) >= 5
    assert [kind for kind in kinds if not re.search(rf"kind: {kind}\b", PAGE)] == []
