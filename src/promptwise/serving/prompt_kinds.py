"""Adapters that differ in their numbers alone make their prompts together.

Letters as in ``docs/notation.md``; ``N`` is the number of adapters that run together, ``R`` the most rows of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.core.injection import Edit, Injection, Site, merge
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt
from promptwise.core.seeding import seeded
from promptwise.injectors.base import Injector
from promptwise.injectors.hidden import HiddenInjector
from promptwise.injectors.none import NoInjector
from promptwise.injectors.prefix import PrefixInjector
from promptwise.models.parts import check_parts, injector_options, prompt_parts, strategy_options
from promptwise.strategies.base import Strategy
from promptwise.strategies.shared import SharedPrompt

_STRATEGY = "strategy."
_SHARED = "strategy.vectors"
MOST_ROWS_TOGETHER = 4
"""An adapter with more rows in a batch runs by itself, so that little of what runs together is padding."""


class PromptParts(nn.Module):
    """A strategy with its injector, whose tensors have the names that a saved adapter gives them."""

    def __init__(self, strategy: Strategy, injector: Injector) -> None:
        super().__init__()
        self.strategy, self.injector = strategy, injector


def new_parts(backbone: Backbone, config: PromptConfig) -> PromptParts:
    """New parts, as :class:`~promptwise.models.prompted.PromptedModel` makes them.

    Raises:
        ConfigError: They cannot work together, or with this backbone.
        BackboneError: The backbone cannot serve them.
    """
    check_parts(config)
    with seeded(0):
        injector, strategy = prompt_parts(backbone, config)
    return PromptParts(strategy, injector).eval()


@dataclass(frozen=True, eq=False)
class Prompts:
    """What makes the prompts of one adapter: its tensors, or parts of its own where its kind does not run together.

    Attributes:
        kind: What it has in common with others.
        tensors: By the names of a saved adapter.
        own: The parts with these tensors.
    """

    kind: PromptKind
    tensors: Mapping[str, Tensor]
    own: PromptParts | None = None


Part = tuple[Prompts, slice]
"""An adapter and its rows of a batch."""


class PromptKind:
    """A strategy and an injector, without their numbers.

    Args:
        backbone: The frozen model, which calls attention of our own already where it can.
        config: What the adapters are made of.
        fold: Whether to make what they add to each token once, where that is possible; each then runs by itself.

    Attributes:
        shared_dtype: What a shared prompt is held in, unless its file has less.
        from_layer: The layer at which prompts enter, of what was told so.
        lowest_layer: The first layer that is touched; ``None`` where none is.
        reserved_positions: How many positions the prompts take.
        shapes: The shape of each tensor; a length of 0 stands for any, as that of a table.
        folded_bytes: What folding takes for each adapter; 0 where nothing is folded.
        template: The parts, on the device ``meta``: their tensors have shapes, and take no memory.
    """

    def __init__(self, backbone: Backbone, config: PromptConfig, fold: bool = False) -> None:
        self.config = config
        # A configuration may claim any size.
        with torch.device("meta"):
            self.template = new_parts(backbone, config).to("meta")
        # Read once: while adapters run, the template holds their tensors.
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.template.state_dict().items()}
        strategy, injector = self.template.strategy, self.template.injector
        self.reading = config.reading
        self.reads_layer = strategy.reads_layer
        self.reserved_positions = injector.reserved_positions
        self.from_layer = injector.from_layer
        self.lowest_layer: int | None = self.from_layer
        if isinstance(injector, NoInjector):
            self.lowest_layer = None
        elif isinstance(injector, HiddenInjector):
            self.lowest_layer = min(injector.shape.layers)
        self.is_shared = type(strategy) is SharedPrompt
        # The values of a shared prefix enter as they are, in the dtype of the model's own.
        self.shared_dtype = injector.dtype if isinstance(injector, PrefixInjector) else torch.float32
        self.folded_bytes = strategy.folded_bytes(len(_embedding(backbone).weight)) if fold else 0
        self.is_stacked = strategy.stacks and not self.folded_bytes
        self.makes_edits = strategy.makes_edits

    def expected(self, backbone: Backbone, found: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        """The shapes that the tensors of an adapter must have.

        Args:
            backbone: The frozen model.
            found: The shapes in its file, for a strategy whose form depends on what its training found.
        """
        own = {name: shape for name, shape in found.items() if name.startswith(_STRATEGY)}
        if own.keys() == {name for name in self.shapes if name.startswith(_STRATEGY)}:
            return self.shapes
        with torch.device("meta"):
            parts = new_parts(backbone, self.config).to("meta")
            parts.strategy.expect({name.removeprefix(_STRATEGY): torch.empty(shape) for name, shape in own.items()})
        return {name: tuple(tensor.shape) for name, tensor in parts.state_dict().items()}

    @staticmethod
    def key(config: PromptConfig) -> tuple[object, ...]:
        """What adapters of one kind have in common."""
        settings = {**strategy_options(config), **injector_options(config)}
        # What training started from is no matter once the tensors are there.
        settings.pop("init", None)
        return (config.base, config.strategy, config.length, config.reading, repr(sorted(settings.items())))

    def prompts(self, backbone: Backbone, tensors: Mapping[str, Tensor]) -> Prompts:
        """What makes the prompts of an adapter.

        Args:
            backbone: The frozen model.
            tensors: Of these shapes.

        Raises:
            RuntimeError: They do not fit the parts.
        """
        if self.is_shared or self.is_stacked:
            held = {name: tensor.to(backbone.device) for name, tensor in tensors.items()}
            if self.is_shared and held[_SHARED].element_size() >= self.shared_dtype.itemsize:
                # What enters is of this dtype anyway.
                held[_SHARED] = held[_SHARED].to(self.shared_dtype)
            return Prompts(self, held)
        own = new_parts(backbone, self.config)
        own.load_state_dict(tensors)
        # They keep wanting gradients, which they never get here: torch.matmul goes other ways without.
        own = own.to(backbone.device)
        if self.folded_bytes:
            own.strategy.fold(_embedding(backbone))
        return Prompts(self, own.state_dict(), own)

    def injection(self, parts: Sequence[Part], instance: Instance) -> Injection:
        """What enters the backbone for adapters of this kind.

        Args:
            parts: The adapters with their rows of ``instance``: neighbours, in order, those with most rows first.
            instance: The rows of all of them.
        """
        if self.reading is not None:
            instance = instance.reading(self.reading)
        if self.is_shared:
            return self._shared(parts, instance)
        if self.is_stacked:
            alone = [part for part in parts if part[1].stop - part[1].start > MOST_ROWS_TOGETHER or len(parts) == 1]
            together = parts[len(alone) :]
            made = [self._called(prompts, instance.rows(rows)) for prompts, rows in alone]
            if together:
                made.append(self._stacked(together, instance))
            return merge(made) if len(made) > 1 else made[0]
        made = []
        for prompts, rows in parts:
            assert prompts.own is not None
            own = instance.rows(rows)
            made.append(prompts.own.injector.inject(own, prompts.own.strategy(own)))
        return merge(made) if len(made) > 1 else made[0]

    def _shared(self, parts: Sequence[Part], instance: Instance) -> Injection:
        """One prompt for the whole task of each row: gathered."""
        if len(parts) == 1:
            vectors = parts[0][0].tensors[_SHARED].to(self.shared_dtype).unsqueeze(0)
        else:
            # A list for the rows and one copy, instead of a copy for each adapter: each would wait for all threads.
            of_row = [
                prompts.tensors[_SHARED].to(self.shared_dtype)
                for prompts, rows in parts
                for _ in range(rows.start, rows.stop)
            ]
            vectors = torch.stack(of_row)
        injected: Injection = self.template.injector.inject(instance, Prompt(vectors))
        return injected

    def _called(self, prompts: Prompts, instance: Instance) -> Injection:
        """The rows of one adapter, as it would make them alone."""
        strategy, injector = (_floats([prompts.tensors], name)[0] for name in ("strategy.", "injector."))
        prompt: Prompt = functional_call(self.template.strategy, strategy, (instance,))
        return self._injected(injector, instance, prompt)

    def _injected(self, tensors: Mapping[str, Tensor], instance: Instance, prompt: Prompt) -> Injection:
        injector = _Calls(self.template.injector)
        named = {f"module.{name}": tensor for name, tensor in tensors.items()}
        made: Injection = functional_call(injector, named, (instance, prompt))
        return made

    def _stacked(self, parts: Sequence[Part], instance: Instance) -> Injection:
        """The rows of several adapters: their parameters stacked ``[N, ...]``, their rows padded to ``[N, R, ...]``."""
        layout = _Layout.of(parts, instance.ids.device)
        instance = instance.rows(slice(parts[0][1].start, parts[-1][1].stop))
        tensors = [prompts.tensors for prompts, _ in parts]
        strategy, injector = (_stacked_tensors(_floats(tensors, name)) for name in ("strategy.", "injector."))
        padded = instance.rows(layout.places)
        functions: dict[Site, Callable[..., Tensor]] = {}

        def made(own: dict[str, Tensor], ids: Tensor, mask: Tensor, text: Tensor, vectors: Tensor, states: Any) -> Any:
            one = Instance(ids, mask, text, vectors, states=states)
            prompt: Prompt = functional_call(self.template.strategy, own, (one,))
            if not self.makes_edits:
                return prompt.vectors
            stacked = {}
            for site, edit in prompt.edits.items():
                assert isinstance(edit, partial), "Strategy.stacks asks for it"
                functions[site], stacked[site] = edit.func, edit.args
            return stacked

        with_states = None if padded.states is None else 0
        prompts = vmap(made, in_dims=(0, 0, 0, 0, 0, with_states))(
            strategy, padded.ids, padded.mask, padded.text, padded.embeddings, padded.states
        )
        if self.makes_edits:
            edits: dict[Site, Edit] = {
                site: partial(_edited_together, layout, function, prompts[site]) for site, function in functions.items()
            }
            return Injection(len(instance.ids), edits=edits)
        if not injector:
            return self._injected({}, instance, Prompt(layout.rows_of(prompts)))

        def prefix_of(own: dict[str, Tensor], ids: Tensor, mask: Tensor, embeddings: Tensor, vectors: Tensor) -> Any:
            prefix = self._injected(own, Instance(ids, mask, mask, embeddings), Prompt(vectors)).prefix
            assert prefix is not None, "of the injectors here, the prefix alone has tensors"
            return prefix

        # [N, 2, R or 1, A, K, D] to the rows' own [2, B, A, K, D].
        layers = vmap(prefix_of)(injector, padded.ids, padded.mask, padded.embeddings, prompts)
        own = tuple(layout.rows_of(layer.transpose(1, 2)).transpose(0, 1) for layer in layers)
        return Injection(len(instance.ids), prefix=own)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Rows of several adapters, padded to ``[N, R]``.

    Attributes:
        places: ``[N, R]`` which row stands where; a place that is left over repeats the adapter's last row.
        adapter: ``[B]`` the adapter of each row.
        column: ``[B]`` its place among the adapter's rows.
    """

    places: Tensor
    adapter: Tensor
    column: Tensor

    @classmethod
    def of(cls, parts: Sequence[Part], device: torch.device) -> _Layout:
        """The layout of neighbouring rows, which are counted from the first one."""
        first = parts[0][1].start
        counts = [rows.stop - rows.start for _, rows in parts]
        places = [
            [rows.start - first + min(column, count - 1) for column in range(max(counts))]
            for (_, rows), count in zip(parts, counts, strict=True)
        ]
        return cls(
            torch.tensor(places, device=device),
            torch.repeat_interleave(torch.tensor(counts, device=device)),
            torch.cat([torch.arange(count, device=device) for count in counts]),
        )

    def padded(self, values: Tensor) -> Tensor:
        """``[N, R, ...]`` of ``[B, ...]``."""
        return values.unsqueeze(1) if self.places.shape[1] == 1 else values[self.places]

    def rows_of(self, padded: Tensor) -> Tensor:
        """``[B, ...]`` of ``[N, R, ...]``, or of ``[N, 1, ...]`` where all rows of an adapter have the same."""
        if self.places.shape[1] == 1:
            return padded.squeeze(1)
        return padded[self.adapter, self.column.clamp(max=padded.shape[1] - 1)]


def _edited_together(
    layout: _Layout, function: Callable[..., Tensor], stacked: Sequence[Tensor], hidden: Tensor
) -> Tensor:
    """What the edits of several adapters add to the states ``[B, T, H]`` of their rows."""
    return layout.rows_of(vmap(function)(*stacked, layout.padded(hidden)))


def _embedding(backbone: Backbone) -> Any:
    """The frozen word embeddings."""
    return backbone.base.get_input_embeddings()


class _Calls(nn.Module):
    """Makes ``inject`` the forward of a module, which is what torch.func calls."""

    def __init__(self, module: Injector) -> None:
        super().__init__()
        self.module = module

    def forward(self, instance: Instance, prompt: Prompt) -> Any:
        """See :meth:`Injector.inject`."""
        return self.module.inject(instance, prompt)


def _floats(tensors: Sequence[Mapping[str, Tensor]], prefix: str) -> list[dict[str, Tensor]]:
    """Of each adapter the tensors whose names begin so, in the float32 that they are trained in."""
    return [
        {name.removeprefix(prefix): tensor.float() for name, tensor in own.items() if name.startswith(prefix)}
        for own in tensors
    ]


def _stacked_tensors(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([own[name] for own in tensors]) for name in tensors[0]}
