"""The interface of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.settings import StrategySettings


class Strategy(nn.Module, ABC):
    """Makes the prompt of each instance: ``t = G_w(x)`` of the paper, section 1.

    It sees the whole instance, and knows neither the backbone nor where its vectors will enter.

    Attributes:
        instance_wise: Whether the prompt depends on the instance.
        makes_vectors: Whether there is a prompt; without one ``K`` is 0, whatever the settings say.
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
        usual_base: The base that a plug-in has where none is named; others say it in their settings.
        makes_edits: Whether it makes edits of hidden states instead of vectors, which not every base takes.
        needs_slots: Whether its vectors must stay apart where they enter.
        reads_layer: The layer whose incoming hidden states it reads (:attr:`Instance.states`); ``None`` for none.
        task_prompt: The parameter ``[K, W]`` that the prompts of all instances share and start from, by its name;
            ``None`` where there is none.
        folds: Whether what it adds depends on the token alone, so that :meth:`fold` can make it once for inference.
        stacks: Whether torch.func can run it for many adapters in one call, with their weights stacked ``[N, ...]``:
            they have the same shapes in each, its edits are a ``functools.partial`` of tensors, and ``torch.vmap``
            takes all that it does.
        lr_scale: The learning rate of the strategy's weights, as a share of that of the other trained weights.
    """

    instance_wise: ClassVar[bool] = True
    makes_vectors: ClassVar[bool] = True
    settings: ClassVar[type] = StrategySettings
    usual_base: ClassVar[str] = StrategySettings.usual_base
    makes_edits: ClassVar[bool] = False
    needs_slots: ClassVar[bool] = False
    reads_layer: int | None = None
    task_prompt: ClassVar[str | None] = None
    folds: ClassVar[bool] = False
    stacks: bool = False
    lr_scale: ClassVar[float] = 1.0

    @abstractmethod
    def __init__(self, shape: PromptShape) -> None:
        """Build the strategy for ``shape.length`` vectors of width ``shape.width``; settings are keyword arguments."""
        super().__init__()
        self.shape = shape

    def prepare(self, instances: Iterable[Instance], embedding: nn.Module) -> None:
        """See every training instance once before training starts; most strategies need not.

        Args:
            instances: Batches of the training split.
            embedding: The backbone's frozen word embeddings, a module from ids to ``[..., E]``.
        """

    def expect(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the form of saved tensors, by their names in the strategy, before they are loaded; most have one form.

        A strategy whose weights depend on what :meth:`prepare` finds has another form before it.
        """

    def folded_bytes(self, vocabulary: int) -> int:
        """The memory that :meth:`fold` takes for so many tokens; 0 where there is nothing to fold."""
        return 0

    def fold(self, embedding: nn.Module) -> None:
        """Make what is added to each token of the vocabulary once, for inference; only where ``folds`` says so.

        Args:
            embedding: The backbone's frozen word embeddings.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be folded.")

    @abstractmethod
    def forward(self, instance: Instance) -> Prompt:
        """The prompt of each instance: vectors ``[B, K, W]`` and a mask ``[B, K]`` where some have fewer than ``K``."""
