"""Predictions for a few tasks as plain arrays, in a file that is drawn without the model."""

from collections.abc import Mapping, Sequence

import numpy as np

from npexp.callbacks.figures import Panel
from npexp.callbacks.parity import Parity


def pack(examples: Sequence[Panel | list[Parity]]) -> dict[str, np.ndarray]:
    """Arrays by name: "<task>/panel/<field>", or "<task>/<output>/<field>" for observed against predicted."""
    arrays = {}
    for i, example in enumerate(examples):
        parts = {"panel": example} if isinstance(example, Panel) else dict(enumerate(example))
        for part, fields in parts.items():
            named = {name: value for name, value in fields._asdict().items() if value is not None}
            arrays |= {f"{i}/{part}/{name}": np.asarray(value) for name, value in named.items()}
    return arrays


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Panel | list[Parity]]:
    """What `pack` was given."""
    tasks: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for name, value in arrays.items():
        task, part, field = name.split("/")
        tasks.setdefault(int(task), {}).setdefault(part, {})[field] = value
    return [_panel(parts["panel"]) if "panel" in parts else _parities(parts) for _, parts in sorted(tasks.items())]


def _panel(fields: dict[str, np.ndarray]) -> Panel:
    shape = fields.pop("image_shape", None)
    return Panel(**fields, image_shape=None if shape is None else tuple(shape.tolist()))


def _parities(parts: dict[str, dict[str, np.ndarray]]) -> list[Parity]:
    ordered = [fields for _, fields in sorted(parts.items(), key=lambda item: int(item[0]))]
    return [Parity(**{**fields, "title": str(fields["title"])}) for fields in ordered]
