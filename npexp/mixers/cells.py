"""Patterns of places: cells and neighbourhoods in the space of the inputs, whatever the order of the context."""

import itertools
from functools import reduce

import torch
from torch import Tensor

from npexp.errors import ConfigError
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Classes, within
from npexp.ops.attention import attend_part, merge_parts


def cells(x: Tensor, width: float, shift: float = 0.0) -> Tensor:
    """Coordinates of the cell that each input is in, `[b, m, dx]`, int64; the first cell's centre is at `shift`."""
    limit = 2.0 ** (63 // x.shape[-1] - 2)
    return ((x - shift) / width + 0.5).floor().clamp(-limit, limit).long()


def code(coordinates: Tensor) -> Tensor:
    """One number for each cell, `[...]`, that grows by one along the last axis."""
    bits = 63 // coordinates.shape[-1]
    total = torch.zeros_like(coordinates[..., 0])
    for c in coordinates.unbind(-1):
        total = (total << bits) + c
    return total


MOST = 4  # inputs, of which each multiplies the number of neighbours by three


class Neighbours(Pattern):
    """Keys in the row's own cell and the cells around it, corners included."""

    size = 16

    def __init__(self, width: float):
        self.width = width

    def place(self, rows: Rows) -> Tensor:
        return cells(rows.x, self.width)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        return ((q - k).abs() <= 1).all(-1)

    def codes(self, place: Tensor) -> Tensor:
        return code(place)

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        *most, last = place.unbind(-1)
        lines = [
            [c + d for c, d in zip(most, step, strict=True)] for step in itertools.product((-1, 0, 1), repeat=len(most))
        ]
        low, high = (torch.stack([code(torch.stack([*line, last + d], -1)) for line in lines], -1) for d in (-1, 1))
        return within(codes, low, high)


class Ball(Neighbours):
    """Keys at most `width` away; cells as wide as that find them."""

    def place(self, rows: Rows) -> Tensor:
        return rows.x

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        return (q - k).square().sum(-1) <= self.width**2

    def codes(self, place: Tensor) -> Tensor:
        return code(cells(place, self.width))

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return super().spans(cells(place, self.width), codes, n)


class SameCell(Classes):
    """Keys in the row's own cell of a grid whose origin is moved by `shift`."""

    def __init__(self, width: float, shift: float):
        self.width, self.shift = width, shift

    def place(self, rows: Rows) -> Tensor:
        return code(cells(rows.x, self.width, self.shift))[..., None]


class Line(Classes):
    """Keys whose cells differ from the row's along one axis only.

    Args:
        width: side of a cell.
        axis: which one.
        others: leaves out the row's own cell.
    """

    def __init__(self, width: float, axis: int, others: bool = False):
        self.width, self.axis, self.others = width, axis, others

    def place(self, rows: Rows) -> Tensor:
        """The line, and the cell."""
        own = cells(rows.x, self.width)
        line = torch.cat([own[..., : self.axis], torch.zeros_like(own[..., :1]), own[..., self.axis + 1 :]], -1)
        return torch.stack([code(line), code(own)], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        line, cell = (q == k).unbind(-1)
        return line & ~cell if self.others else line


class CellMixer(PatternMixer):
    """Attention by cells of the inputs: exact wherever points lie, dear where many share a cell.

    Args:
        site: where in the model it sits.
        width: side of a cell, in units of x.
    """

    permutation_invariant = True
    needs_order = False
    published = "n w"
    cost = "(nc + nt) w"
    exponent = 2.0  # over a fixed domain; 1 where the domain grows, or cells shrink, with nc
    dense_limit = {"width": 10.0**6}

    def __init__(self, site: Site, width: float = 0.5):
        super().__init__(site)
        if not 0 < width < float("inf"):
            raise ConfigError(f"expected width > 0, in units of x, got {width}")
        if site.dx > MOST:
            raise ConfigError(
                f"expected at most {MOST} inputs, got {site.dx}: use 'kernel' or 'ist', which need no cells"
            )
        self.width, self.dx = width, site.dx


@register("local_radius")
class LocalRadius(CellMixer):
    """Local attention by distance: each row reads the context points at most `width` away.

    Density, ties and the order of points do not matter, unlike in "local". Time O((nc + nt) w dz) for w points in the
    cells around, of which there are 3^dx: for few dimensions. State O(nc).

    Args:
        site: where in the model it sits.
        width: the distance, in units of x.
    """

    paper = "1802.05751"
    translation_equivariant = True

    def patterns(self) -> list[Pattern]:
        return [Ball(self.width)]


@register("image_2d")
class Image2D(CellMixer):
    """Image Transformer, two-dimensional (Parmar et al. 2018, arXiv 1802.05751): the own cell and those around it.

    In dx dimensions there are 3^dx of them.
    """

    paper = "1802.05751"
    published = "n m"

    def patterns(self) -> list[Pattern]:
        return [Neighbours(self.width)]


@register("swin", width=1.0)
class Swin(CellMixer):
    """Swin attention (Liu et al. 2021, arXiv 2103.14030): rows read their cell; odd layers move cells by half a side.

    For points off any grid a cell holds what lies in it, and empty cells cost nothing; see `gridded_swin` for the model
    that brings points onto a grid first.
    """

    paper = "2103.14030"

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    def patterns(self) -> list[Pattern]:
        return [SameCell(self.width, self.width / 2 if self.layer % 2 else 0.0)]


@register("axial")
class Axial(CellMixer):
    """Axial attention (Ho et al. 2019, arXiv 1912.12180): rows read the line of cells along one axis, in turns.

    After dx layers every point has been seen. In one dimension the line is all there is, and this is dense attention.
    """

    paper = "1912.12180"
    published = "n sqrt(n)"
    cost = "(nc + nt) nc / lines"

    @classmethod
    def period(cls, site: Site) -> int:
        return site.dx

    def patterns(self) -> list[Pattern]:
        return [Line(self.width, self.layer % self.dx)]


@register("ccnet")
class CCNet(CellMixer):
    """Criss-cross attention (Huang et al. 2019, arXiv 1811.11721): one softmax over the lines along every axis, twice.

    The second pass reads what the first one has brought to the context, with the same weights, so that two steps reach
    every point on a plane. In one dimension both passes are dense attention.
    """

    paper = "1811.11721"
    published = "n sqrt(n)"
    cost = "(nc + nt) nc / lines"
    dense_limit = None  # two passes

    def patterns(self) -> list[Pattern]:
        return [Line(self.width, axis, others=axis > 0) for axis in range(self.dx)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[tuple[tuple[Layout, ...], ...], Carry]:
        """Keys and values along each axis, of the context and of what its first pass makes of it."""
        first = self._lines(ctx)
        return (first, self._lines(ctx._replace(h=self._cross(ctx, first)))), carry

    def read(self, q: Tokens, state: tuple[tuple[Layout, ...], ...]) -> Tensor:
        """Both passes of each row."""
        first, second = state
        return self.attention.merge(self._attend(q._replace(h=self._cross(q, first)), second))

    def _lines(self, ctx: Tokens) -> tuple[Layout, ...]:
        kv, rows = self.attention.project(ctx.h), rows_of(ctx)
        return tuple(lay_out(p, kv.k, kv.v, rows) for p in self.patterns())

    def _cross(self, rows: Tokens, lines: tuple[Layout, ...]) -> Tensor:
        return rows.h + self.attention.merge(self._attend(rows, lines))

    def _attend(self, q: Tokens, lines: tuple[Layout, ...]) -> Tensor:
        heads, rows = self.attention.query(q.h), rows_of(q)
        along = zip(self.patterns(), lines, strict=True)
        return reduce(merge_parts, (attend_pattern(p, heads, rows, layout, attend_part) for p, layout in along)).out
