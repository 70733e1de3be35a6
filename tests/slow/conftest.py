"""The tiny backbones and the trained adapter that the integration tests use."""

from tests.integration.conftest import headless_tiny, models, offline, tickets, tiny, trained

__all__ = ["headless_tiny", "models", "offline", "tickets", "tiny", "trained"]
