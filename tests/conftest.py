"""Shared fixtures."""

import jaxtyping
import pytest


@pytest.fixture
def untyped():
    """Switches the shape annotations off, as they are for users, so that our own errors can be seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
