"""Transformer neural process, with any mixer."""

from typing import Any

from npexp.layers.embedding import PointEmbedding
from npexp.layers.mlp import Activation
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class TNP(TransformerNP):
    """TNP-D (Nguyen & Grover 2022, arXiv 2207.04179) when the mixer is "dense"; a frame for every other mixer.

    Context and target tokens pass the same blocks; each target attends to the context only. The published model masks
    a joint (nc + nt)^2 attention to that end; here targets simply read the context's summaries, O(nc^2 + nc nt).

    The most accurate choice for factorised predictions while nc^2 is affordable.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: heads of the mixer.
        dim_feedforward: hidden width of the feed-forward networks.
        mixer: how tokens mix, any name of `npexp.available_mixers()`.
        mixer_args: settings of the mixer's own.
        context: "read" lets the context mix with itself, "raw" gives every layer the embedded context, which makes
            summaries exactly updatable where the mixer allows; None is the mixer's default.
        norm_first: pre-norm, or post-norm as published, which leaves the plateau of ignoring the context sooner.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        depth_embedding: linear layers of the embedder.
        flag: tells targets from context points in the shared embedder.
        num_frequencies: learned Fourier features of x.
        dim_head: hidden width of the network in front of the likelihood.
        sort: canonical order at the entry.
        share_layers: one set of weights for all layers (Universal Transformer, ALBERT).
        checkpoint: activation checkpointing: trains in less memory, a third slower.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 64,
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        mixer: str = "dense",
        mixer_args: dict[str, Any] | None = None,
        context: str | None = None,
        norm_first: bool = False,
        activation: Activation = "relu",
        depth_embedding: int = 4,
        flag: bool = True,
        num_frequencies: int = 0,
        dim_head: int = 128,
        sort: bool = False,
        share_layers: bool = False,
        checkpoint: bool = False,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, True, flag, num_frequencies),
            Stack(
                dx,
                mixer,
                num_layers,
                dz,
                num_heads,
                dim_feedforward,
                mixer_args,
                context,
                activation=activation,
                norm_first=norm_first,
                share_layers=share_layers,
                checkpoint=checkpoint,
            ),
            dz,
            dim_head,
            likelihood,
            sort,
        )
