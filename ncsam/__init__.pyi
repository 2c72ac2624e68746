"""The public names, each with the module that defines it."""

from landscape._version import __version__ as __version__
from ncsam import (
    data as data,
    figures as figures,
    measurements as measurements,
    models as models,
    noise as noise,
    optimizers as optimizers,
    records as records,
)
from ncsam.measurements.theorem1 import theorem1_bound as theorem1_bound
from ncsam.optimizers import (
    MSAM as MSAM,
    NCSAM as NCSAM,
    SAM as SAM,
    CleanDirection as CleanDirection,
    CleanPartDirection as CleanPartDirection,
    GStarOnly as GStarOnly,
    JacobianSAM as JacobianSAM,
    LogitSAM as LogitSAM,
    Matched as Matched,
    NCSAMReleased as NCSAMReleased,
    Oracle as Oracle,
    Plain as Plain,
    ProjectionWarning as ProjectionWarning,
    RandomDirection as RandomDirection,
    RandomPicks as RandomPicks,
    Replay as Replay,
    SharpnessAware as SharpnessAware,
    SkippedWarning as SkippedWarning,
)
from ncsam.runs.import_run import import_run as import_run
from ncsam.runs.open_runs import open_runs as open_runs
from ncsam.runs.run import Run as Run
from ncsam.runs.train import train_run as train_run
from ncsam.runs.weight_files import export_weights as export_weights
from ncsam.study.endpoints import row_of as row_of
from ncsam.study.table import table_of as table_of
from ncsam.study.verdicts import judge as judge
from ncsam.sweep.tuning import validation_accuracy as validation_accuracy
from ncsam.training.config import TrainConfig as TrainConfig
from ncsam.training.trainer import Trainer as Trainer
