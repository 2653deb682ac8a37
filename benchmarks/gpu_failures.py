"""A pytest plugin for a session that may be killed: prints why a test failed as soon as it fails, not at the end."""

from typing import Any

import pytest


class Failures:
    """Prints them where pytest prints the results."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line(f"\n{report.nodeid}, {report.when}, failed after {report.duration:.0f} s:")
            self.terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin, in the process that has a terminal: those of xdist have none."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(Failures(terminal))
