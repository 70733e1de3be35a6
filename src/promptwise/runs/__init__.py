"""A run from a configuration to a folder with a saved adapter."""
