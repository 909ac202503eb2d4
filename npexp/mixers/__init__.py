"""Token mixers: how the context is summarised and how any row reads the summary. One idea per file."""
