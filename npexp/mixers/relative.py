"""What the dense mixers share that see where points are through differences of inputs."""

from abc import ABC

from torch import Tensor

from npexp.layers.relative import Placed, RelativeAttention
from npexp.mixers.base import Carry, Mixer, Tokens


class RelativeMixer(Mixer, ABC):
    """Relative attention over all context points; a mixer sets `attention`."""

    family = "dense"
    published = "n^2"
    exponent = 2.0
    update = "layer"
    joins = True
    state = "grows"
    translation_equivariant = True
    cost = "nc^2 + nc nt"
    attention: RelativeAttention

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Placed, Carry]:
        """Keys, values and inputs of every point."""
        # a copy of x, since the caller may overwrite what was given
        return self.attention.project(ctx.h, ctx.x.clone(), ctx.mask), carry

    def read(self, q: Tokens, state: Placed) -> Tensor:
        """Attention of each row over all points."""
        return self.attention(q.h, q.x, state)

    def extend(self, state: Placed, new: Tokens, carry: Carry = None) -> tuple[Placed, Carry]:
        """Appends the new points."""
        return state.join(self.attention.project(new.h, new.x, new.mask)), carry
