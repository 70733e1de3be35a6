"""Tables of experiments, made from their records alone."""
