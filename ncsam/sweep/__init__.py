"""Many runs to be compared: their description, their cells, the processes that run them, the folder they fill."""

from ncsam.sweep.arms import Arm, Tuning
from ncsam.sweep.cells import MEASURES, Cell
from ncsam.sweep.cluster import Cluster
from ncsam.sweep.description import Sweep, presets
from ncsam.sweep.folder import SweepFolder
from ncsam.sweep.plan import Plan, draw_up
from ncsam.sweep.pool import Failure, run_cells
from ncsam.sweep.rows import Rows

__all__ = [
    "MEASURES",
    "Arm",
    "Cell",
    "Cluster",
    "Failure",
    "Plan",
    "Rows",
    "Sweep",
    "SweepFolder",
    "Tuning",
    "draw_up",
    "presets",
    "run_cells",
]
