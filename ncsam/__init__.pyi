"""The public names, each with the module that defines it."""

from landscape._version import __version__ as __version__
from ncsam import data as data, figures as figures, models as models, noise as noise
from ncsam.measurements.theorem1 import theorem1_bound as theorem1_bound
from ncsam.optimizers import (
    MSAM as MSAM,
    NCSAM as NCSAM,
    SAM as SAM,
    CleanDirection as CleanDirection,
    CleanPartDirection as CleanPartDirection,
    GStarOnly as GStarOnly,
    Matched as Matched,
    NCSAMReleased as NCSAMReleased,
    Oracle as Oracle,
    Plain as Plain,
    ProjectionWarning as ProjectionWarning,
    RandomDirection as RandomDirection,
    RandomPicks as RandomPicks,
    Replay as Replay,
    SharpnessAware as SharpnessAware,
)
from ncsam.runs.import_run import import_run as import_run
from ncsam.runs.run import Run as Run
from ncsam.runs.train import train_run as train_run
from ncsam.runs.weight_files import export_weights as export_weights
from ncsam.training.config import TrainConfig as TrainConfig
from ncsam.training.trainer import Trainer as Trainer
