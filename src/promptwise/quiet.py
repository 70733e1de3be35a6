"""Less noise on the terminal."""

from __future__ import annotations


def quiet() -> None:
    """Keep the libraries' notes off the terminal; errors still show."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|accelerate|transformers")
