"""Heads: from features of a target to a predictive distribution."""

from npexp.likelihoods.base import Factorised, Head, Likelihood, Predictive
from npexp.likelihoods.gaussian import DiagonalGaussian, Gaussian
from npexp.likelihoods.mixture import SetMixture

__all__ = ["DiagonalGaussian", "Factorised", "Gaussian", "Head", "Likelihood", "Predictive", "SetMixture"]
