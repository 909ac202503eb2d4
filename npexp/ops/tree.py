"""States are nested tuples of tensors; these walk them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def tree_map(f: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Applies `f` to every tensor of a nested (named) tuple, and of others of its form; anything else is kept."""
    if isinstance(tree, Tensor):
        return f(tree, *others)
    if isinstance(tree, tuple):
        items = [tree_map(f, *parts) for parts in zip(tree, *others, strict=True)]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of a nested (named) tuple, in order."""
    found: list[Tensor] = []
    tree_map(lambda t: found.append(t) or t, tree)
    return found


def nbytes(tree: Any) -> int:
    """Bytes held by the tensors of a state, counting shared storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(tree)}
    return sum(storages.values())
