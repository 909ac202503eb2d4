"""Parts that models are built from; they know nothing about neural processes."""
