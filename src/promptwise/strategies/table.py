"""Random and Pretrained IPT: a table of prompt vectors, looked up by the input's own tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import ConfigError
from promptwise.strategies.base import Strategy
from promptwise.strategies.knowledge import read_knowledge
from promptwise.strategies.settings import PretrainedSettings, RandomSettings
from promptwise.strategies.vocabulary import VocabularyTable, text_ids


class RandomTable(Strategy):
    """The prompt is ``T[x_1 .. x_K]``, the rows of the first ``K`` tokens of the text (paper, section 3).

    A text with fewer tokens has fewer vectors. A token that training never showed at those positions gets the mean
    of all rows: what the table has learnt that depends on no word. (In training it gets zeros; :meth:`prepare` leaves
    no such token.)

    Args:
        shape: What the injector asks for.
        table_rank: Rows hold so many numbers instead of ``W``, and one learnt map takes them to width ``W``. The paper
            has whole rows.

    Raises:
        ConfigError: ``table_rank`` is not below ``W``.
    """

    settings: ClassVar[type] = RandomSettings
    needs_slots: ClassVar[bool] = True
    lr_scale: ClassVar[float] = 0.3

    def __init__(self, shape: PromptShape, table_rank: int | None = None) -> None:
        super().__init__(shape)
        self.table = VocabularyTable(table_rank or shape.width, shape.init_scale)
        self.output: nn.Module = nn.Identity()
        if table_rank is not None:
            if table_rank >= shape.width:
                raise ConfigError(
                    f"--table-rank {table_rank} is no smaller than a whole row, which has {shape.width} numbers. Take "
                    "less, or leave it out."
                )
            self.output = nn.Linear(table_rank, shape.width, bias=False)
            # So that the prompts have the spread that whole rows have.
            nn.init.normal_(self.output.weight, std=table_rank**-0.5)

    def prepare(self, instances: Iterable[Instance], embedding: nn.Module) -> None:
        """Give a row to each token that the training split shows among the first ``K``."""
        self.table.allocate(text_ids(instances, self.shape.length))

    def forward(self, instance: Instance) -> Prompt:
        """The rows ``[B, K, W]`` of the first ``K`` tokens of each text."""
        first = instance.first_text(self.shape.length)
        rows, known = self.table(first.ids)
        # In training every token has a row, and the mean of a large table takes its time.
        other = rows.new_zeros(()) if self.training else self.unknown(first)
        own = self.output(rows)
        if first.presence is not None:
            # What stands in for unknown tokens is made of embeddings, which are faded already, or is the mean itself.
            own = first.faded(own, self.absent(first))
        return Prompt(torch.where(known.unsqueeze(-1), own, other), first.mask)

    def unknown(self, first: Instance) -> Tensor:
        """Vectors ``[B, K, W]`` (or ``[W]`` for all) in place of the rows that tokens do not have."""
        return self._mean()

    def absent(self, first: Instance) -> Tensor:
        """The vector ``[W]`` of an absent token, for attribution: that of an unknown one."""
        return self._mean()

    def _mean(self) -> Tensor:
        """The mean vector ``[W]`` of all tokens, which trains nothing."""
        mean: Tensor = self.output(self.table.rows.mean(0)).detach()
        return mean


class PretrainedTable(RandomTable):
    """As :class:`RandomTable`, with first values from a table that was trained to tell topics (paper, section 3).

    A token that training never showed has the vector that its frozen word embedding would start from: the table itself
    started there, and did not go far.

    Args:
        shape: What the injector asks for.
        knowledge: Folder of the knowledge. It is read before training alone; a saved adapter has its own rows.

    Raises:
        ConfigError: No folder is named.
    """

    settings: ClassVar[type] = PretrainedSettings
    centre: Tensor
    scale: Tensor

    def __init__(self, shape: PromptShape, knowledge: str | None = None) -> None:
        super().__init__(shape)
        if knowledge is None:
            raise ConfigError(
                "--strategy pretrained needs --knowledge DIR, a folder of `promptwise pretrain knowledge`."
            )
        self.knowledge = knowledge
        self.register_buffer("centre", torch.zeros(shape.embedding_size))
        self.register_buffer("scale", torch.ones(()))

    def prepare(self, instances: Iterable[Instance], embedding: nn.Module) -> None:
        """Give a row of the knowledge to each token that the training split shows among the first ``K``.

        Raises:
            KnowledgeError: The folder cannot be read.
        """
        known = read_knowledge(self.knowledge)
        centre, scale = known.standard(self.shape.init_scale)
        self.centre, self.scale = centre.to(self.centre), scale.to(self.scale)
        self.table.allocate(
            text_ids(instances, self.shape.length),
            start=lambda ids: self._prompts(known.vectors(ids, embedding)),
        )

    def unknown(self, first: Instance) -> Tensor:
        """See :meth:`RandomTable.unknown`."""
        return self._prompts(first.embeddings.float())

    def absent(self, first: Instance) -> Tensor:
        """See :meth:`RandomTable.absent`."""
        assert first.absent is not None, "given with presence"
        return self._prompts(first.absent.float())

    def _prompts(self, vectors: Tensor) -> Tensor:
        """Prompt vectors ``[..., W]`` of token vectors ``[..., E]``.

        The table's mean is taken off, the rest is brought to the spread of random prompts and repeated until the width
        is reached: for a prefix, keys and values begin alike.
        """
        return repeated((vectors.to(self.centre) - self.centre) * self.scale, self.shape.width)


def repeated(values: Tensor, width: int) -> Tensor:
    """Values ``[..., E]`` as often as it takes to reach a width: ``[..., W]``."""
    times = -(-width // values.shape[-1])
    return torch.cat([values] * times, dim=-1)[..., :width]
