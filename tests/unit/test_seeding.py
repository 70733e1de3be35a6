"""First values from a seed."""

from __future__ import annotations

import threading

import torch

from promptwise.core.seeding import seeded


def drawn(seed: int) -> torch.Tensor:
    """Two draws, between which another thread may come."""
    with seeded(seed):
        return torch.cat([torch.randn(1000), torch.randn(1000)])


def test_threads_draw_what_their_seeds_say() -> None:
    """A pool reads adapters in threads, while another thread may begin to train."""
    expected = {seed: drawn(seed) for seed in (1, 2)}
    before = torch.get_rng_state()
    wrong: list[int] = []

    def draw(seed: int) -> None:
        wrong.extend(seed for _ in range(300) if not torch.equal(drawn(seed), expected[seed]))

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(torch.get_rng_state(), before), "the generator is left as it was"
