"""Every configuration on the page about operations stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from live.agent.config import load_agent_config
from live.gateway.config import load_config, load_hands

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/operations.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_a_configuration_of_the_page_is_taken(text: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(text)
    if text.startswith("# agent.yaml"):
        assert load_agent_config(file, None, None, None).hands.restart is not None
    elif "nodes:" in text:
        assert load_config(file).parameters().healer.restart, "no example forbids what its hands are for"
    else:
        assert load_hands(file).hands.drill


def test_every_way_to_restart_a_node_has_an_example() -> None:
    ways = {"systemd", "webhook", "kubernetes", "process"}
    assert len(EXAMPLES) >= 9
    assert ways <= {way for way in ways for text in EXAMPLES if f"{way}:" in text}
