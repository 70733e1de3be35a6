"""A trained vector for each token id that training shows, which several strategies look up."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.errors import ConfigError, DataError


def text_ids(instances: Iterable[Instance], count: int | None = None) -> Tensor:
    """The token ids ``[N]`` that texts show among their first ``count`` tokens, or anywhere; some may repeat."""
    seen = [torch.empty(0, dtype=torch.long)]
    for instance in instances:
        first = instance.first_text(count or instance.ids.shape[1])
        seen.append(torch.unique(first.ids[first.mask]).cpu())
    return torch.cat(seen)


class VocabularyTable(nn.Module):
    """A trained vector for each token id that training shows, and for no other.

    A table over the whole vocabulary would grow parameters, optimizer state and file with ``V``, although only
    rows whose token occurs are ever touched. The ids are found in one pass before training.

    Args:
        width: Width of a row.
        init_scale: Rows are drawn from U(-init_scale, init_scale).
        trained: Whether the rows are trained. Those that are not are kept in float16.
    """

    ids: Tensor

    def __init__(self, width: int, init_scale: float, trained: bool = True) -> None:
        super().__init__()
        self.width, self.init_scale, self.trained = width, init_scale, trained
        self.register_buffer("ids", torch.empty(0, dtype=torch.int32))
        self._set_rows(torch.empty(0, width))

    def _set_rows(self, values: Tensor) -> None:
        dtype = torch.float32 if self.trained else torch.float16
        self.rows = nn.Parameter(values.to(dtype), requires_grad=self.trained)

    def allocate(self, ids: Tensor, start: Callable[[Tensor], Tensor] | None = None) -> None:
        """Make a row for each distinct id; rows that are there already stay, with their values.

        Args:
            ids: Any shape.
            start: Gives the first values ``[N, width]`` of ids ``[N]``; drawn at random without it.

        Raises:
            DataError: There is no id, so there would be nothing to learn.
        """
        if not ids.numel():
            raise DataError("No training text has a token, so a vocabulary table has nothing to learn from.")
        device = self.rows.device
        ids = torch.unique(torch.cat([self.ids, ids.to(device=device, dtype=torch.int32).flatten()]))
        if start is None:
            values = torch.empty(len(ids), self.width).uniform_(-self.init_scale, self.init_scale)
        else:
            values = start(ids).detach()
        values = values.to(device=device, dtype=torch.float32)
        if len(self.ids):
            rows, known = self(ids)
            values = torch.where(known.unsqueeze(-1), rows.detach(), values)
        self.ids = ids
        self._set_rows(values)

    def begins_as(self, start: Callable[[Tensor], Tensor]) -> bool:
        """Whether the rows that are there are those that ``start`` would give; trained ones may be any."""
        if self.trained or not len(self.ids):
            return True
        return torch.equal(start(self.ids).detach().to(self.rows), self.rows)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[..., width]`` of ``ids``, and which ids have a row; the others get an arbitrary one.

        Raises:
            ConfigError: No row was allocated yet.
        """
        if not len(self.ids):
            raise ConfigError("The vocabulary table has no rows yet: call prepare() with the training split, or fit().")
        row = torch.searchsorted(self.ids, ids.to(torch.int32)).clamp(max=len(self.ids) - 1)
        return nn.functional.embedding(row, self.rows).float(), self.ids[row] == ids

    def vectors(self, instance: Instance) -> Tensor:
        """Rows ``[B, T, E]`` of an instance's tokens, a frozen embedding where a token has none.

        Raises:
            ConfigError: No row was allocated yet.
        """
        rows, known = self(instance.ids)
        faded = instance.faded(rows, instance.absent)
        return torch.where(known.unsqueeze(-1), faded, instance.embeddings.float())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take the number of rows from what is loaded."""
        ids = state_dict.get(prefix + "ids")
        if ids is not None and ids.shape != self.ids.shape:
            self.ids = torch.empty_like(ids, device=self.rows.device)
            self._set_rows(torch.empty(len(ids), self.width, device=self.rows.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
