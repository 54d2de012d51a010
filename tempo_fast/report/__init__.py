"""From the JSON of benchmark runs to a page and its pictures."""

from tempo_fast.report.page import write_report
from tempo_fast.report.results import Results, read_results

__all__ = ["Results", "read_results", "write_report"]
