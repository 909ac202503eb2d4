"""Neural process variants, one file each; every YAML under `conf/model` names one of them with its settings."""

from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.anp import ANP
from npexp.models.banp import BANP
from npexp.models.base import NeuralProcess
from npexp.models.bnp import BNP
from npexp.models.bootstrap import BootstrapNeuralProcess
from npexp.models.canp import CANP
from npexp.models.cmanp import CMANP
from npexp.models.cnp import CNP
from npexp.models.convcnp import ConvCNP
from npexp.models.convnp import ConvNP
from npexp.models.eqtnp import EQTNP
from npexp.models.gridded import GriddedTNP
from npexp.models.inctnp import INCTNP
from npexp.models.isanp import ISANP
from npexp.models.ist import IST
from npexp.models.latent import LatentNeuralProcess
from npexp.models.lbanp import LBANP
from npexp.models.lpnp import LPNP
from npexp.models.np import NP
from npexp.models.rmnp import RMNP
from npexp.models.rmnp_hybrid import RMNPHybrid
from npexp.models.set_transformer import SetTransformer
from npexp.models.tetnp import TETNP
from npexp.models.tnp import TNP
from npexp.models.tnpa import TNPA
from npexp.models.tnpkr import TNPKR

__all__ = [
    "ANP",
    "BANP",
    "BNP",
    "CANP",
    "CMANP",
    "CNP",
    "EQTNP",
    "INCTNP",
    "ISANP",
    "IST",
    "LBANP",
    "LPNP",
    "NP",
    "RMNP",
    "TETNP",
    "TNP",
    "TNPA",
    "TNPKR",
    "AdditiveNeuralProcess",
    "BootstrapNeuralProcess",
    "ConvCNP",
    "ConvNP",
    "GriddedTNP",
    "LatentNeuralProcess",
    "NeuralProcess",
    "RMNPHybrid",
    "SetTransformer",
]
