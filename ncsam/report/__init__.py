"""``landscape report``: a study as one HTML page, from each verdict to its numbers to the command."""

from ncsam.report.page import report

__all__ = ["report"]
