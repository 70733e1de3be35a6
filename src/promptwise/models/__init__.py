"""Texts to predictions: a backbone, a prompt and a head put together for one task."""
