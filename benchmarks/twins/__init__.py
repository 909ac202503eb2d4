"""Twins: the published models with the mathematics and weights of ours, computed as the public releases compute them.

They are what a speed ratio can be taken against where a release is not at hand, and `tests/test_twins.py` shows that
they predict, and learn, the same. Written from the papers; where a paper leaves a choice, the faster one is taken.
"""

from collections.abc import Callable

from benchmarks.twins.attentive import ANP, CANP
from benchmarks.twins.base import Twin
from benchmarks.twins.bootstraps import BANP, BNP
from benchmarks.twins.deepsets import CNP, NP
from benchmarks.twins.latents import CMANP, EQTNP, LBANP
from benchmarks.twins.tnp import TNPA, TNPD
from npexp.models.base import NeuralProcess

TWINS: dict[str, Callable[[NeuralProcess], Twin]] = {
    "tnpd": TNPD,
    "lbanp": LBANP,
    "cmanp": CMANP,
    "tnpa": TNPA,
    "anp": ANP,
    "eqtnp": EQTNP,
    "canp": CANP,
    "cnp": CNP,
    "np": NP,
    "bnp": BNP,
    "banp": BANP,
}


def twin(name: str, model: NeuralProcess) -> Twin:
    """The twin of `npexp.build("paper/<name>", ...)`, with copies of the model's weights."""
    made = TWINS[name](model).to(next(model.parameters()))
    return made.train(model.training)
