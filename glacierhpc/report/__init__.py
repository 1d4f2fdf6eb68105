"""The report of a run: one self-contained HTML page made from the files of its directory.

Computes nothing that a product rests on: numbers come from the tables that the steps wrote.
"""

from glacierhpc.report.page import write_report
from glacierhpc.report.picture import write_picture

__all__ = ["write_picture", "write_report"]
