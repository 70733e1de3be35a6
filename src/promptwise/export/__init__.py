"""Trained adapters out of Python: one graph of backbone, prompt and head, in a folder that needs no promptwise."""
