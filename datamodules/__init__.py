"""Sources of tasks. Importing the package makes its classes known to the command line under their short names."""

from datamodules.base import NPDataModule, PlotTask
from datamodules.celeba import CelebA
from datamodules.coregionalised import LMC, Coregionalised
from datamodules.digits import DigitsData
from datamodules.eeg import EEG
from datamodules.emnist import EMNIST
from datamodules.epidemic import SIR
from datamodules.far_fact import FarFact
from datamodules.field import Field
from datamodules.folder import ImageFolder
from datamodules.frame import Frame
from datamodules.gp import GPData
from datamodules.hare_lynx import HareLynx
from datamodules.images import ImageTasks
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
from datamodules.long_gp import LongGP
from datamodules.lotka_volterra import LotkaVolterra
from datamodules.noise import Gaussian, Heteroscedastic, Noise, StudentT
from datamodules.nonstationary import ChangePoint, Gibbs
from datamodules.pixels import GridPixels, HalfImage, PixelChoice, RandomPixels, SuperResolution
from datamodules.samplers import Circulant, Markov, RandomFeatures, Sampler
from datamodules.sawtooth import Sawtooth
from datamodules.series import Series
from datamodules.shapes import Shapes
from datamodules.sim_to_real import SimToReal
from datamodules.trend import Linear
from datamodules.wheel import Wheel, WheelGame, wheel_game

__all__ = [
    "EEG",
    "EMNIST",
    "LMC",
    "RBF",
    "SIR",
    "CelebA",
    "ChangePoint",
    "Circulant",
    "Coregionalised",
    "DigitsData",
    "FarFact",
    "Field",
    "Frame",
    "GPData",
    "Gaussian",
    "Gibbs",
    "GridPixels",
    "HalfImage",
    "HareLynx",
    "Heteroscedastic",
    "ImageFolder",
    "ImageTasks",
    "Kernel",
    "Linear",
    "LongGP",
    "LotkaVolterra",
    "Markov",
    "Matern",
    "Mixed",
    "NPDataModule",
    "Noise",
    "Periodic",
    "PixelChoice",
    "PlotTask",
    "Product",
    "RandomFeatures",
    "RandomPixels",
    "Sampler",
    "Sawtooth",
    "Series",
    "Shapes",
    "SimToReal",
    "SpectralMixture",
    "StudentT",
    "Sum",
    "SuperResolution",
    "WeaklyPeriodic",
    "Wheel",
    "WheelGame",
    "wheel_game",
]
