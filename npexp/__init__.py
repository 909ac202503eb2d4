"""Efficient Neural Processes: trained, compared and used under one honest protocol.

Everything public is here and loads on first use, so that `import npexp` costs nothing.
"""

import importlib
from typing import Any

_PUBLIC = {
    "TaskBatch": "npexp.batch",
    "NeuralProcess": "npexp.models.base",
    "NPModule": "npexp.module",
    "Predictor": "npexp.predict",
    "load_predictor": "npexp.predict",
    "available_data": "npexp.registry",
    "available_mixers": "npexp.registry",
    "available_models": "npexp.registry",
    "available_pretrained": "npexp.trained",
    "build": "npexp.registry",
    "build_data": "npexp.registry",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'npexp' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
