"""For all tests: what was skipped for want of a component is named at the end, and is a failure in CI."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Name the tests that need a real component and were skipped."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "real" in report.keywords]
    if skipped:
        terminalreporter.write_sep("=", "not tested here, for want of a real component", yellow=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.write_line(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test of a real component fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [report for report in reporter.stats.get("skipped", []) if "real" in report.keywords] if reporter else []
    if skipped and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
