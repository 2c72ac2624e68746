"""Version 3 of the statements: version 2, and T10 on the samples that hold the curvature.

It judges where it is asked for (``landscape theory --statements 3``), since T10 needs a measurement of its own.
"""

from ncsam.study.statements import version2
from ncsam.study.statements.statement import Version
from ncsam.study.statements.wrong_labels import T10

VERSION = Version(3, (*version2.VERSION.statements, T10), version2.VERSION.memorisation)
