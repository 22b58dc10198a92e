from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-transcripts",
        action="store_true",
        help="write what the policy does now into tests/policy/transcripts/*.txt; read the diff before committing it",
    )
