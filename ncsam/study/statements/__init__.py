"""The statements T1–T9 of the flatness–noise theory, in the versions that studies were judged by."""

from collections.abc import Mapping

from ncsam.study.statements import version1, version2
from ncsam.study.statements.statement import EVERY_ARM, Statement, Version

VERSIONS: Mapping[int, Version] = {version.number: version for version in (version1.VERSION, version2.VERSION)}
"""By number; the latest judges a study unless another is asked for."""
LATEST = max(VERSIONS)

__all__ = ["EVERY_ARM", "LATEST", "VERSIONS", "Statement", "Version"]
