"""Heads: from features of a target to a predictive distribution."""

from npexp.likelihoods.autoregressive import Autoregressive, Decoding, Verbs
from npexp.likelihoods.base import Factorised, Head, Likelihood, Predictive
from npexp.likelihoods.bernoulli_gamma import BernoulliGamma, IndependentBernoulliGamma
from npexp.likelihoods.beta import Beta, IndependentBeta
from npexp.likelihoods.cholesky import Cholesky, CholeskyGaussian
from npexp.likelihoods.discrete import Bernoulli, Categorical, IndependentBernoulli, IndependentCategorical
from npexp.likelihoods.gaussian import DiagonalGaussian, Gaussian
from npexp.likelihoods.joint import JointGaussian
from npexp.likelihoods.lowrank import LowRank, LowRankGaussian, RelationalLowRank
from npexp.likelihoods.mixture import SetMixture
from npexp.likelihoods.normals import GaussianMixture, NormalMixture
from npexp.likelihoods.student import IndependentStudentT, StudentT
from npexp.likelihoods.transformed import Affine, Transformed, TransformedLaw

__all__ = [
    "Affine",
    "Autoregressive",
    "Bernoulli",
    "BernoulliGamma",
    "Beta",
    "Categorical",
    "Cholesky",
    "CholeskyGaussian",
    "Decoding",
    "DiagonalGaussian",
    "Factorised",
    "Gaussian",
    "GaussianMixture",
    "Head",
    "IndependentBernoulli",
    "IndependentBernoulliGamma",
    "IndependentBeta",
    "IndependentCategorical",
    "IndependentStudentT",
    "JointGaussian",
    "Likelihood",
    "LowRank",
    "LowRankGaussian",
    "NormalMixture",
    "Predictive",
    "RelationalLowRank",
    "SetMixture",
    "StudentT",
    "Transformed",
    "TransformedLaw",
    "Verbs",
]
