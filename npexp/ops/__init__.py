"""Pure functions on tensors. A fast path and its `*_naive` twin live in one file."""
