"""``landscape report``: a study as one HTML page that a sceptical reader can follow from verdict to number to command."""

from ncsam.report.page import report

__all__ = ["report"]
