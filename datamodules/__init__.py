"""Sources of tasks. Importing the package makes its classes known to the command line under their short names."""

from datamodules.base import NPDataModule, PlotTask
from datamodules.coregionalised import Coregionalised
from datamodules.digits import DigitsData
from datamodules.far_fact import FarFact
from datamodules.gp import GPData
from datamodules.kernels import (
    RBF,
    Kernel,
    Matern,
    Mixed,
    Periodic,
    Product,
    SpectralMixture,
    Sum,
    WeaklyPeriodic,
)
from datamodules.sawtooth import Sawtooth
from datamodules.series import Series
from datamodules.shapes import Shapes

__all__ = [
    "RBF",
    "Coregionalised",
    "DigitsData",
    "FarFact",
    "GPData",
    "Kernel",
    "Matern",
    "Mixed",
    "NPDataModule",
    "Periodic",
    "PlotTask",
    "Product",
    "Sawtooth",
    "Series",
    "Shapes",
    "SpectralMixture",
    "Sum",
    "WeaklyPeriodic",
]
