"""The table of all kills, at the end of the tests."""

import faults


def pytest_terminal_summary(terminalreporter):
    rows = [
        tuple(row)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "kills"
        for row in value
    ]
    if rows:
        terminalreporter.write_line(faults.table(rows))
