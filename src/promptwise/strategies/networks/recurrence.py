"""A bidirectional LSTM that ``torch.compile`` takes into a graph, which it does not do with ``torch.nn.LSTM``.

Hochreiter and Schmidhuber 1997, with forget gates, as ``torch.nn.LSTM`` has it. Both directions go step by step
together. The recurrence is one operation with a backward pass of its own: on a CPU, autograd's nodes for its steps take
longer than the numbers. Letters: ``T`` steps, ``B`` batch, ``H`` width of a direction's state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from promptwise.core.instance import gather_rows


class PaddedLSTM(nn.Module):
    """One layer over padded rows, with the weights of ``torch.nn.LSTM`` under its names.

    Padding comes last, so the way from the left needs no care; the way from the right starts at each row's last token.

    Args:
        size: ``E``, the width of a token.
        hidden: ``H``.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        for name, weight in nn.LSTM(size, hidden, bidirectional=True).named_parameters():
            self.register_parameter(name, weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The states ``[B, T, 2H]`` of tokens ``[B, T, E]``, real ones first by their mask ``[B, T]``."""
        lengths, places = mask.sum(1, keepdim=True), torch.arange(tokens.shape[1], device=tokens.device)
        mirror = torch.where(places < lengths, lengths - 1 - places, places)
        onward, back = (
            nn.functional.linear(
                tokens, self._get("weight_ih", way), self._get("bias_ih", way) + self._get("bias_hh", way)
            )
            for way in ("", "_reverse")
        )
        gates = torch.stack([onward, gather_rows(back, mirror)]).permute(2, 0, 1, 3).contiguous()
        weights = torch.stack([self._get("weight_hh", way) for way in ("", "_reverse")])
        onward, back = recurrence(gates, weights)[0].permute(1, 2, 0, 3)
        return torch.cat([onward, gather_rows(back, mirror)], dim=-1)

    def _get(self, name: str, way: str) -> Tensor:
        weight: Tensor = getattr(self, f"{name}_l0{way}")
        return weight


@torch.library.custom_op("promptwise::recurrence", mutates_args=())
def recurrence(gates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states of two LSTMs from states of zero.

    Args:
        gates: ``[T, 2, B, 4H]``, what the inputs add to the gates: input, forget, cell, output.
        weights: ``[2, 4H, H]``, what a state adds to the next step's gates.

    Returns:
        The states ``[T, 2, B, H]``; the open gates and the cells, for the backward pass.
    """
    width = weights.shape[2]
    opened, cells = torch.empty_like(gates), gates.new_empty(*gates.shape[:3], width)
    states = torch.empty_like(cells)
    state = cell = gates.new_zeros((*gates.shape[1:3], width))
    across = weights.transpose(1, 2)
    for step in range(len(gates)):
        now = torch.baddbmm(gates[step], state, across)
        torch.sigmoid(now, out=opened[step])
        torch.tanh(now[..., 2 * width : 3 * width], out=opened[step, ..., 2 * width : 3 * width])
        enter, keep, new, leave = opened[step].chunk(4, dim=-1)
        cell = torch.addcmul(keep * cell, enter, new, out=cells[step])
        state = torch.mul(leave, torch.tanh(cell), out=states[step])
    return states, opened, cells


@torch.library.custom_op("promptwise::recurrence_backward", mutates_args=())
def recurrence_backward(
    gradient: Tensor, weights: Tensor, states: Tensor, opened: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of gates and weights from that of the states, by the chain rule from the last step to the first."""
    of_gates, before = torch.empty_like(opened), _before(cells)
    enter, keep, new, leave = opened.chunk(4, dim=-1)
    shown = torch.tanh(cells)
    # What each gate's gradient is multiplied with at a step, for all steps at once.
    to_cell = leave * (1 - shown * shown)
    slopes = torch.cat(
        [new * enter * (1 - enter), before * keep * (1 - keep), enter * (1 - new * new), shown * leave * (1 - leave)],
        -1,
    ).unflatten(-1, (4, -1))
    of_state = of_cell = torch.zeros_like(cells[0])
    for step in range(len(states) - 1, -1, -1):
        of_state = gradient[step] + of_state
        of_cell = torch.addcmul(of_cell, of_state, to_cell[step])
        of_three = torch.stack([of_cell, of_cell, of_cell, of_state], dim=-2)
        torch.mul(slopes[step], of_three, out=of_gates[step].unflatten(-1, (4, -1)))
        of_state = torch.bmm(of_gates[step], weights)
        of_cell = of_cell * keep[step]
    flat = of_gates.transpose(0, 1).flatten(1, 2).transpose(1, 2)
    return of_gates, torch.bmm(flat, _before(states).transpose(0, 1).flatten(1, 2))


def _before(values: Tensor) -> Tensor:
    """Of each step the values of the step before, zeros of the first."""
    return torch.cat([torch.zeros_like(values[:1]), values[:-1]])


@recurrence.register_fake
def _(gates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    states = gates.new_empty(*gates.shape[:3], weights.shape[2])
    return states, torch.empty_like(gates), torch.empty_like(states)


@recurrence_backward.register_fake
def _(gradient: Tensor, weights: Tensor, states: Tensor, opened: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(opened), torch.empty_like(weights)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[1], *output)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = recurrence_backward(gradient.contiguous(), *ctx.saved_tensors)
    return found


recurrence.register_autograd(_backward, setup_context=_keep)
