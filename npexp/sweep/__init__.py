"""Sweeps: Optuna studies whose trials are `npexp fit` processes."""
