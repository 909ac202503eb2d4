"""Which pixels of an image are seen and which are asked for: at random, a grid, a half, or a coarser image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from datamodules.settings import sizes
from npexp.errors import ConfigError, at_least

SIDES = ("top", "bottom", "left", "right")
SHUFFLE = 1024  # images of so many pixels or fewer are shuffled as a whole, which is faster than drawing from them


class Chosen(NamedTuple):
    """Pixels of a batch, by their number: rows one after the other.

    Args:
        context: of the image whose pixels are the means of blocks of `factor` x `factor`, `[b, nc]`.
        target: of the image itself, `[b, nt]`.
        factor: how much coarser the context is; 1 for the image itself.
    """

    context: np.ndarray
    target: np.ndarray
    factor: int = 1


class PixelChoice(ABC):
    """A law of contexts and targets for images of any size. A constructor stores each argument under its own name."""

    @abstractmethod
    def check(self, height: int, width: int) -> None:
        """Raises `ConfigError` where an image of this size has too few pixels, or the wrong number of them."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, num: int, height: int, width: int) -> Chosen:
        """Contexts and targets of `num` images; how many there are is drawn once for all of them."""

    @abstractmethod
    def show(self, rng: np.random.Generator, share: float, height: int, width: int) -> Chosen:
        """A context for a figure, all pixels being targets; `share` in [0, 1] goes through what is possible."""


class RandomPixels(PixelChoice):
    """Any pixels, and others of the same image as targets: image completion.

    The defaults are the published protocol for 200 points (Lee et al. 2020, arXiv 2008.02956; Nguyen & Grover 2022,
    arXiv 2207.04179): with a budget of P points, 3 to P - 4 in the context and then 3 to P - 1 less the context as
    targets, which are a few of the other pixels and not all of them.

    Args:
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch; None for all other pixels.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    def __init__(
        self,
        num_context: Sequence[int] = (3, 196),
        num_target: Sequence[int] | None = (3, 196),
        max_points: int | None = 199,
    ):
        self.num_context = sizes("num_context", num_context, 0)
        self.num_target = None if num_target is None else sizes("num_target", num_target, 1)
        self.max_points = max_points
        fewest = self.num_context[1] + (1 if self.num_target is None else self.num_target[0])
        if max_points is not None:
            at_least("max_points (largest context plus fewest targets)", max_points, fewest)

    def check(self, height: int, width: int) -> None:
        most = self.num_context[1] + (1 if self.num_target is None else self.num_target[1])
        most = most if self.max_points is None else min(most, self.max_points)
        if most > height * width:
            raise ConfigError(
                f"expected at most {height * width} points, those of an image of {height} x {width}, got {most} for "
                "context and targets together: lower num_context, num_target or max_points, or use larger images"
            )

    def draw(self, rng: np.random.Generator, num: int, height: int, width: int) -> Chosen:
        nc, most = int(rng.integers(*self.num_context, endpoint=True)), height * width
        nt = most - nc
        if self.max_points is not None:
            nt = min(nt, self.max_points - nc)
        if self.num_target is not None:
            nt = draw_number(rng, self.num_target[0], min(self.num_target[1], nt))
        numbers = subset(rng, num, most, nc + nt)
        return Chosen(numbers[:, :nc], numbers[:, nc:])

    def show(self, rng: np.random.Generator, share: float, height: int, width: int) -> Chosen:
        low, high = self.num_context
        return Chosen(subset(rng, 1, height * width, round(low + share * (high - low))), every(height, width))


class Pattern(PixelChoice):
    """Contexts from a short list of fixed patterns: for each batch one of them, all equally likely.

    Args:
        num_target: smallest and largest number of targets, drawn once per batch from the pixels that are not in the
            context; None for all of these.
    """

    def __init__(self, num_target: Sequence[int] | None):
        self.num_target = None if num_target is None else sizes("num_target", num_target, 1)

    @abstractmethod
    def patterns(self, height: int, width: int) -> list[tuple[np.ndarray, int]]:
        """Each pattern's pixel numbers and factor, as `Chosen` has them."""

    def check(self, height: int, width: int) -> None:
        for context, factor in self.patterns(height, width):
            left = len(others(context, factor, height, width))
            if self.num_target is not None and self.num_target[1] > left:
                raise ConfigError(
                    f"expected at most {left} targets beside {len(context)} context pixels of an image of {height} x "
                    f"{width}, got num_target {list(self.num_target)}: lower it, or use larger images"
                )

    def draw(self, rng: np.random.Generator, num: int, height: int, width: int) -> Chosen:
        patterns = self.patterns(height, width)
        context, factor = patterns[rng.integers(len(patterns))]
        targets = np.broadcast_to(left := others(context, factor, height, width), (num, len(left)))
        if self.num_target is not None:
            targets = left[subset(rng, num, len(left), draw_number(rng, *self.num_target))]
        return Chosen(np.broadcast_to(context, (num, len(context))), targets, factor)

    def show(self, rng: np.random.Generator, share: float, height: int, width: int) -> Chosen:
        patterns = self.patterns(height, width)
        context, factor = patterns[min(int(share * len(patterns)), len(patterns) - 1)]
        return Chosen(context[None], every(height, width), factor)


class GridPixels(Pattern):
    """Every k-th pixel of every k-th row, and pixels between them as targets.

    Args:
        spacings: the values of k.
        num_target: smallest and largest number of targets, one draw per batch; None for all other pixels.

    Raises:
        ConfigError: a spacing below 2, or wider than the image.
    """

    def __init__(self, spacings: Sequence[int] = (2, 3, 4), num_target: Sequence[int] | None = None):
        super().__init__(num_target)
        self.spacings = whole("spacings", spacings)

    def patterns(self, height: int, width: int) -> list[tuple[np.ndarray, int]]:
        if max(self.spacings) > min(height, width):
            raise ConfigError(
                f"expected spacings of at most {min(height, width)} for an image of {height} x {width}, got "
                f"{list(self.spacings)}: use smaller ones"
            )
        numbers = every(height, width).reshape(height, width)
        return [(numbers[(k - 1) // 2 :: k, (k - 1) // 2 :: k].ravel(), 1) for k in self.spacings]


class HalfImage(Pattern):
    """One half of the image, and pixels of the other half as targets.

    Args:
        sides: the halves that may be seen: top, bottom, left, right. The middle row or column of an odd number is not.
        num_target: smallest and largest number of targets, one draw per batch; None for the whole other half.

    Raises:
        ConfigError: no side, or an unknown one.
    """

    def __init__(
        self,
        sides: Sequence[Literal["top", "bottom", "left", "right"]] = ("top", "left"),
        num_target: Sequence[int] | None = None,
    ):
        super().__init__(num_target)
        self.sides = tuple(sides)
        if not self.sides or not set(self.sides) <= set(SIDES):
            raise ConfigError(f"expected sides among {', '.join(SIDES)}, got {list(sides)}: name one or more")

    def patterns(self, height: int, width: int) -> list[tuple[np.ndarray, int]]:
        numbers, rows, columns = every(height, width).reshape(height, width), height // 2, width // 2
        halves = {
            "top": numbers[:rows],
            "bottom": numbers[height - rows :],
            "left": numbers[:, :columns],
            "right": numbers[:, width - columns :],
        }
        return [(halves[side].ravel(), 1) for side in self.sides]


class SuperResolution(Pattern):
    """A coarser image as context, and pixels of the fine one as targets.

    A pixel of the coarse image is the mean of a block of k x k pixels and lies at the middle of the block, for even k
    between the pixels.

    Args:
        factors: the values of k, which divide the number of rows and of columns.
        num_target: smallest and largest number of targets, one draw per batch; None for all pixels.

    Raises:
        ConfigError: a factor below 2, or one that does not divide the sides of the image.
    """

    def __init__(self, factors: Sequence[int] = (2, 4), num_target: Sequence[int] | None = None):
        super().__init__(num_target)
        self.factors = whole("factors", factors)

    def patterns(self, height: int, width: int) -> list[tuple[np.ndarray, int]]:
        if any(height % k or width % k for k in self.factors):
            raise ConfigError(
                f"expected factors that divide {height} rows and {width} columns, got {list(self.factors)}: use others"
            )
        return [(every(height // k, width // k)[0], k) for k in self.factors]


def every(height: int, width: int) -> np.ndarray:
    """The number of each pixel of one image, `[1, p]`."""
    return np.arange(height * width)[None]


def others(context: np.ndarray, factor: int, height: int, width: int) -> np.ndarray:
    """Pixels that may be targets: those not in the context; all of them where the context is another image."""
    numbers = every(height, width)[0]
    return np.delete(numbers, context) if factor == 1 else numbers


def subset(rng: np.random.Generator, num: int, most: int, count: int) -> np.ndarray:
    """`num` times `count` different numbers below `most` in random order, all equally likely, `[num, count]`."""
    if most <= SHUFFLE:
        return rng.permuted(np.tile(np.arange(most), (num, 1)), axis=1)[:, :count]
    return np.stack([rng.choice(most, count, replace=False) for _ in range(num)])


def draw_number(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high, endpoint=True))


def whole(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Returns whole numbers from 2 on as a tuple, or raises `ConfigError` where there are others or none."""
    if not values:
        raise ConfigError(f"expected {name} as a list of whole numbers from 2 on, got none: give one or more")
    return tuple(at_least(f"each of {name}", value, 2) for value in values)
