"""Ways into the frozen model; the only place that touches the attention and mask internals of transformers."""
