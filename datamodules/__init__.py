"""Sources of tasks. Importing the package makes its classes known to the command line under their short names."""

from datamodules.base import NPDataModule, PlotTask
from datamodules.digits import DigitsData
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

__all__ = [
    "RBF",
    "DigitsData",
    "GPData",
    "Kernel",
    "Matern",
    "Mixed",
    "NPDataModule",
    "Periodic",
    "PlotTask",
    "Product",
    "SpectralMixture",
    "Sum",
    "WeaklyPeriodic",
]
