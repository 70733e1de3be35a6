"""What the prompt of an instance is. One file per strategy; names are in :mod:`promptwise.registry`."""
