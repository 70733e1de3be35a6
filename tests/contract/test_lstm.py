"""Our LSTM against torch's, which reads packed rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from promptwise.strategies.networks.recurrence import PaddedLSTM, recurrence

LENGTHS = (5, 1, 3, 5)


def test_states_and_gradients_are_those_of_torch() -> None:
    """The same weights give the same states at real tokens, and the same gradients of all weights and inputs."""
    torch.manual_seed(0)
    ours, theirs = PaddedLSTM(6, 4).double(), nn.LSTM(6, 4, batch_first=True, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(len(LENGTHS), 5, 6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
    weight = torch.randn(len(LENGTHS), 5, 8, dtype=torch.float64) * mask.unsqueeze(-1)

    def packed(given: Tensor) -> Tensor:
        rows = pack_padded_sequence(given, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(theirs(rows)[0], batch_first=True)[0]

    found = []
    for module, run in ((ours, lambda given: ours(given, mask)), (theirs, packed)):
        given = tokens.clone().requires_grad_()
        states = run(given) * mask.unsqueeze(-1)
        (states * weight).sum().backward()
        assert given.grad is not None
        found.append([states.detach(), given.grad, *(one.grad for _, one in sorted(module.named_parameters()))])
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_backward_pass_is_the_derivative(steps: int) -> None:
    """Against finite differences, and as torch wants an operation of its own to behave."""
    torch.manual_seed(0)
    gates = torch.randn(steps, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: recurrence(*given)[0], (gates, weights))
    torch.library.opcheck(recurrence, (gates, weights))
