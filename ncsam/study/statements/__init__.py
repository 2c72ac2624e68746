"""The statements T1–T10 of the flatness–noise theory, in the versions that studies were judged by."""

from collections.abc import Mapping

from ncsam.study.statements import version1, version2, version3
from ncsam.study.statements.statement import EVERY_ARM, Statement, Version

VERSIONS: Mapping[int, Version] = {
    version.number: version for version in (version1.VERSION, version2.VERSION, version3.VERSION)
}
"""By number."""
LATEST = version2.VERSION.number
"""Of the statements that every study is asked, by which it is judged unless another version is asked for."""

__all__ = ["EVERY_ARM", "LATEST", "VERSIONS", "Statement", "Version"]
