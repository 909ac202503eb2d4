"""The stack: puts any mixer to work in a Transformer neural process."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from npexp.errors import ConfigError, at_least
from npexp.layers.mlp import Activation
from npexp.mixers.base import Carry, Mixer, Site, State, Tokens, find_mixer, make_mixer


class Block(nn.Module):
    """A Transformer layer around one mixer: a residual read, then a residual feed-forward, both row-wise.

    Args:
        mixer: the exchange of information.
        dz: width of the tokens.
        dim_feedforward: hidden width of the feed-forward network.
        activation: "relu", "gelu" or "geglu".
        norm_first: pre-norm (True) or post-norm.
        norm_context: whether the context has a layer norm of its own, rather than that of the rows which read.
    """

    def __init__(
        self, mixer: Mixer, dz: int, dim_feedforward: int, activation: Activation, norm_first: bool, norm_context: bool
    ):
        super().__init__()
        self.mixer = mixer
        self.norm_first = norm_first
        # Weights that no gradient reaches would stop distributed training.
        weighted = mixer.asks or not (norm_first and norm_context)
        self.norm = nn.LayerNorm(dz, elementwise_affine=weighted)
        self.norm_context = nn.LayerNorm(dz, elementwise_affine=mixer.looks) if norm_context else None
        self.ff = mixer.feedforward(dz, dim_feedforward, activation)
        self.norm_ff = None if self.ff is None else nn.LayerNorm(dz)

    def context(self, ctx: Tokens) -> Tokens:
        """The context as the mixer sees it."""
        norm = self.norm_context or (self.norm if self.norm_first else None)
        return ctx if norm is None else ctx._replace(h=norm(ctx.h))

    def summarise(self, ctx: Tokens, carry: Carry) -> tuple[State, Carry]:
        """The context's summary."""
        return self.mixer.summarise(self.context(ctx), carry)

    def read(self, q: Tokens, state: State) -> Tokens:
        """One layer's step of the rows q."""
        h = q.h + self.mixer.read(q._replace(h=self.norm(q.h)) if self.norm_first else q, state)
        if not self.norm_first:
            h = self.norm(h)
        if self.ff is not None:
            h = h + self.ff(self.norm_ff(h), q.mask) if self.norm_first else self.norm_ff(h + self.ff(h, q.mask))
        return q._replace(h=h)


class Stack(nn.Module):
    """Layers of one mixer between a context and its targets.

    Layer i summarises the context and the targets read the summary. With `context="read"` the context reads it too and
    moves on, except after the last layer, where nobody would look. With `context="raw"` every layer summarises the
    embedded context, and summaries of a mixer with `update` "layer" or "stack" are extended exactly.

    Args:
        dx: size of the inputs x.
        mixer: registered name.
        num_layers: layers that the targets pass.
        dz: width of the tokens.
        num_heads: heads of the mixer.
        dim_feedforward: hidden width of the feed-forward networks.
        mixer_args: settings of the mixer's own.
        context: "read" or "raw"; None takes the mixer's default.
        tie_read: whether context and targets share one block per layer; False gives the targets blocks of their own,
            which summarise the context with weights of their own.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        norm_first: pre-norm with a final layer norm (True), or post-norm.
        share_layers: one block, passed num_layers times, as in the Universal Transformer (arXiv 1807.03819) and ALBERT
            (arXiv 1909.11942); a block each for layers that take turns.
        checkpoint: keeps only what goes from layer to layer for the backward pass and computes the rest again: less
            memory, a third more time (arXiv 1604.06174). Gradients stay the same.
        causal: with `context="read"`, context tokens come with `Tokens.seen` set, so that old ones never change and
            `extend` is exact through all layers.

    Raises:
        UnknownNameError: no such mixer.
        ConfigError: a size below 1, or a wiring that the mixer does not take.
    """

    def __init__(
        self,
        dx: int,
        mixer: str,
        num_layers: int,
        dz: int,
        num_heads: int,
        dim_feedforward: int,
        mixer_args: dict[str, Any] | None = None,
        context: str | None = None,
        tie_read: bool = True,
        activation: Activation = "geglu",
        norm_first: bool = True,
        share_layers: bool = False,
        checkpoint: bool = False,
        causal: bool = False,
    ):
        super().__init__()
        sizes = {"dz": dz, "num_heads": num_heads, "num_layers": num_layers, "dim_feedforward": dim_feedforward}
        for name, value in sizes.items():
            at_least(name, value, 1)

        def block(layer: int, norm_context: bool) -> Block:
            part = make_mixer(mixer, Site(dx, dz, num_heads, layer), mixer_args)
            return Block(part, dz, dim_feedforward, activation, norm_first, norm_context)

        allowed = find_mixer(mixer)[0].contexts
        self.raw = (context or allowed[0]) == "raw"
        if context is not None and context not in allowed:
            raise ConfigError(f"mixer '{mixer}' takes context={' or '.join(allowed)}, got '{context}'")
        if causal and not (find_mixer(mixer)[0].causal and tie_read and not self.raw):
            raise ConfigError(f"mixer '{mixer}' cannot read its context in an order here: use 'dense', context 'read'")
        self.causal, self.checkpoint = causal, checkpoint
        separate = self.raw or not tie_read

        def layers(count: int, norm_context: bool) -> nn.ModuleList:
            own = min(count, find_mixer(mixer)[0].period(Site(dx, dz, num_heads, 0))) if share_layers else count
            made = [block(i, norm_context) for i in range(own)]
            return nn.ModuleList(made[i % own] for i in range(count))

        self.blocks = layers(num_layers, separate and norm_first)
        # the context's own blocks, where it has any
        self.context_blocks = layers(0 if self.raw or tie_read else num_layers - 1, False)
        self.tied = tie_read
        self.norm = nn.LayerNorm(dz) if norm_first else nn.Identity()

    @property
    def mixer(self) -> Mixer:
        """The first layer's mixer, which stands for the traits of all."""
        return self.blocks[0].mixer

    @property
    def updatable(self) -> bool:
        """Whether `extend` equals a new summary through all layers."""
        return self.mixer.update in ("stack", "layer") and (self.raw or self.causal or len(self.blocks) == 1)

    @property
    def removable(self) -> bool:
        """Whether `retract` undoes `extend` through all layers."""
        return self.updatable and self.mixer.removable and not self.causal

    @property
    def joins(self) -> bool:
        """Whether context and targets can pass the layers as one batch, see `forward`."""
        return self.mixer.joins and self.tied and not self.raw

    def forward(self, rows: Tokens, nc: int, mask_c: Tensor | None, before: tuple[State, ...] | None = None) -> Tensor:
        """What `read` gives of targets after `summarise`, where `joins`: both pass the layers as one batch.

        On small contexts an operation costs the same however few rows it has, so half as many of them save a fifth of a
        training step.

        Args:
            rows: context, then targets, all taken for real.
            nc: rows of the context.
            mask_c: real rows of the context, `[b, nc]`.
            before: states that the context extends, whose own rows do not change.
        """
        carry: Carry = None
        for i, block in enumerate(self.blocks):
            ctx = _some(rows, slice(nc))._replace(mask=mask_c)
            if before is None:
                state, carry = self._run(block.summarise, ctx, carry)
            else:
                state, carry = block.mixer.extend(before[i], block.context(ctx), carry)
            if i == len(self.blocks) - 1:
                rows = _some(rows, slice(nc, None))
            rows = self._run(block.read, rows, state)
        return self.norm(rows.h)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[State, ...]:
        """One state per layer; with `LATER` for the first carry, perhaps only as much as `extend` needs of it."""
        states: list[State] = []
        own: Carry = None  # what the context's own blocks carry
        for i, block in enumerate(self.blocks):
            state, carry = self._run(block.summarise, ctx, carry)
            states.append(state)
            if self.raw or i == len(self.blocks) - 1:
                continue
            if not self.tied:
                block = self.context_blocks[i]
                state, own = self._run(block.summarise, ctx, own)
            ctx = self._run(block.read, block.mixer.shorten(ctx, state), state)
        return tuple(states)

    def extend(self, states: tuple[State, ...], new: Tokens, carry: Carry = None) -> tuple[State, ...]:
        """States of old and new context together; equal to a new summary only where `updatable`.

        Tokens with `seen` set read as they go, which leaves the old ones alone: what a causal context and the realised
        targets of an autoregressive model need. Of `LATER` see `summarise`.
        """
        extended = []
        for i, (block, state) in enumerate(zip(self.blocks, states, strict=True)):
            state, carry = block.mixer.extend(state, block.context(new), carry)
            extended.append(state)
            if new.seen is not None and i < len(self.blocks) - 1:
                new = block.read(new, state)
        return tuple(extended)

    def retract(self, states: tuple[State, ...], old: Tokens) -> tuple[State, ...]:
        """States without the old points; only where `removable`."""
        carry: Carry = None
        left = []
        for block, state in zip(self.blocks, states, strict=True):
            state, carry = block.mixer.retract(state, block.context(old), carry)
            left.append(state)
        return tuple(left)

    def read(self, targets: Tokens, states: tuple[State, ...]) -> Tensor:
        """Targets through all layers, `[b, nt, dz]`; row-wise."""
        for block, state in zip(self.blocks, states, strict=True):
            targets = self._run(block.read, targets, state)
        return self.norm(targets.h)

    def _run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Part of a layer, to be computed again in the backward pass where that was asked for."""
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(step, *args, use_reentrant=False)
        return step(*args)


def _some(rows: Tokens, which: slice) -> Tokens:
    """Some of the rows, of the same tasks."""
    parts = {name: v[:, which] for name, v in rows._asdict().items() if v is not None and name != "n"}
    return rows._replace(**parts)
