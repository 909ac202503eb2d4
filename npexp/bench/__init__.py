"""`npexp bench`: time, memory and arithmetic of models against the size of the context, each in a fresh process."""
