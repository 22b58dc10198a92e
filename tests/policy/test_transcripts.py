"""What the policy does, as an operator would read it. `--rewrite-transcripts` writes down what it does now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.bench import run

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_policy_does_what_the_transcript_says(path: Path, request: pytest.FixtureRequest) -> None:
    wanted = path.read_text(encoding="utf-8").splitlines()
    seen = run(wanted)
    if request.config.getoption("--rewrite-transcripts"):
        path.write_text("\n".join(seen) + "\n", encoding="utf-8")
        return
    assert seen == wanted


def test_every_transcript_has_commands_and_output() -> None:
    assert len(TRANSCRIPTS) >= 12
    for path in TRANSCRIPTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), f"{path.name} begins with a comment that says what it shows"
        assert sum(line.startswith("    ") for line in lines) >= 3, path.name
