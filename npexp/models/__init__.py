"""Neural process variants, one file each; every YAML under `conf/model` names one of them with its settings."""

from npexp.models.anp import ANP
from npexp.models.base import NeuralProcess
from npexp.models.cmanp import CMANP
from npexp.models.cnp import CNP
from npexp.models.eqtnp import EQTNP
from npexp.models.ist import IST
from npexp.models.latent import LatentNeuralProcess
from npexp.models.lbanp import LBANP
from npexp.models.np import NP
from npexp.models.tnp import TNP

__all__ = ["ANP", "CMANP", "CNP", "EQTNP", "IST", "LBANP", "NP", "TNP", "LatentNeuralProcess", "NeuralProcess"]
