"""The classifier of topics: a trained table of token vectors under small networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance, gather_rows, left_order
from promptwise.core.seeding import seeded
from promptwise.models.input_format import input_format_for
from promptwise.models.saved_state import expect_no_frozen, leave_out_frozen
from promptwise.models.text_model import TextModel
from promptwise.registry import ENCODERS
from promptwise.strategies.networks.base import TextNetwork
from promptwise.strategies.vocabulary import VocabularyTable, text_ids
from promptwise.tasks.examples import Example
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import Features


class TopicModel(TextModel):
    """Tells the topic of a text with one or several networks over one table (paper, section 3).

    The table starts from the backbone's word embeddings. Each network has a linear layer of its own; their scores are
    averaged, and so are their losses. A topic counts as much as any other, however many texts it has.

    Args:
        backbone: Gives tokenizer and word embeddings; the rest of it is not run.
        spec: The topics.
        encoders: Names of the networks.
        max_length: Most tokens of a text.
        examples: The training texts, for the weights of the topics.
        seed: Seed of the first values.
    """

    # Otherwise Trainer multiplies the loss by the number of accumulation steps and processes.
    accepts_loss_kwargs = False
    topic_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        spec: TaskSpec,
        encoders: Sequence[str],
        max_length: int,
        examples: Sequence[Example],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, self.spec = backbone, spec
        self.input_format = input_format_for(backbone, spec, max_length, cloze=False, reserved=0)
        self.input_format.check(0, None, backbone.name)
        size = backbone.embedding_size
        with seeded(seed):
            self.table = VocabularyTable(size, init_scale=0.0)
            self.normalise_tokens = nn.LayerNorm(size, elementwise_affine=False)
            self.networks = nn.ModuleDict({name: ENCODERS.get(name)(size) for name in encoders})
            self.outputs = nn.ModuleDict(
                {name: nn.Linear(network.features, len(spec.labels)) for name, network in self._networks()}
            )
        counts = Counter(example.label for example in examples)
        weights = [len(examples) / (len(counts) * max(counts[label], 1)) for label in range(len(spec.labels))]
        self.register_buffer("topic_weights", torch.tensor(weights), persistent=False)
        self.scoring_networks = tuple(encoders)
        self.register_state_dict_post_hook(leave_out_frozen)
        self.register_load_state_dict_post_hook(expect_no_frozen)
        self.to(backbone.device)

    def _networks(self) -> list[tuple[str, TextNetwork]]:
        return list(self.networks.items())  # type: ignore[arg-type]

    def prepare(self, inputs: Iterable[Features]) -> None:
        """Give a row of the table to each token that the training texts show."""
        self.table.allocate(text_ids(self.instances(inputs)), start=self.backbone.base.get_input_embeddings())

    def hidden(self, instance: Instance) -> Tensor:
        """Token vectors ``[B, T, E]``."""
        return self.normalise_tokens(self.table.vectors(instance))  # type: ignore[no-any-return]

    def scores(self, instance: Instance, hidden: Tensor, mask_position: Tensor | None) -> Tensor:
        """Log-probabilities ``[B, C]``, the mean over the networks in ``scoring_networks``."""
        order = left_order(instance.text)
        tokens, mask = gather_rows(hidden, order), instance.text.gather(1, order)
        said = [self.outputs[name](self.networks[name](tokens, mask)).log_softmax(-1) for name in self.scoring_networks]
        return torch.stack(said).mean(0)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over texts, weighted by topic, and over networks of their cross-entropies."""
        return nn.functional.nll_loss(logits, labels, self.topic_weights)


def topic_of_tokens(model: TopicModel, rows: Sequence[Features], least: int = 5, share: float = 0.5) -> Tensor:
    """The topic ``[N]`` that each row of a model's table speaks for, or -1.

    A token speaks for a topic when at least ``least`` texts show it and, were the topics equally frequent, at least
    ``share`` of those texts would be about it.

    Args:
        model: A prepared model.
        rows: Features of the training texts.
        least: Fewest texts.
        share: Least share of the topic.
    """
    place = {int(token): number for number, token in enumerate(model.table.ids.tolist())}
    counts = torch.zeros(len(place), len(model.spec.labels))
    for row in rows:
        text = {token for token, is_text in zip(row["input_ids"], row["text_mask"], strict=True) if is_text}
        counts[[place[token] for token in text if token in place], row["labels"]] += 1
    weighted = counts * model.topic_weights.cpu()
    best = weighted.max(1)
    speaks = (counts.sum(1) >= least) & (best.values >= share * weighted.sum(1))
    return torch.where(speaks, best.indices, -1)


def separation(rows: Tensor, topic_of: Tensor) -> dict[str, float]:
    """How much closer tokens of one topic lie than tokens of different topics, as mean cosine similarity.

    Args:
        rows: ``[N, E]`` vectors; their mean is taken off first.
        topic_of: ``[N]`` topics, -1 for none.

    Returns:
        ``same_topic`` and ``other_topic``; 0 where there is no such pair.
    """
    spoken = topic_of >= 0
    vectors = nn.functional.normalize((rows - rows.mean(0))[spoken].double(), dim=-1)
    # The sum over all pairs of a set is the square of the sum of its vectors, less the pairs of a vector with itself.
    counts = torch.bincount(topic_of[spoken])
    sums = torch.zeros(len(counts), vectors.shape[1], dtype=torch.float64).index_add_(0, topic_of[spoken], vectors)
    same, same_pairs = float(sums.square().sum()) - len(vectors), int((counts * (counts - 1)).sum())
    every, pairs = float(vectors.sum(0).square().sum()) - len(vectors), len(vectors) * (len(vectors) - 1)
    other_pairs = pairs - same_pairs
    return {
        "same_topic": same / same_pairs if same_pairs else 0.0,
        "other_topic": (every - same) / other_pairs if other_pairs else 0.0,
    }


def table_report(model: TopicModel, rows: Sequence[Features]) -> tuple[Tensor, dict[str, Any]]:
    """The topic of each token, and what became of the table.

    Args:
        model: A trained model.
        rows: Features of the training texts.

    Returns:
        Topics ``[N]``, and ``rows``, ``topic_tokens``, ``moved`` (mean distance of a row from where it started, as a
        share of its length there), ``before`` and ``after`` as :func:`separation` gives them.
    """
    topic_of = topic_of_tokens(model, rows)
    after = model.table.rows.detach().cpu()
    before = model.backbone.embed(model.table.ids.long()).detach().float().cpu()
    moved = (after - before).norm(dim=1) / before.norm(dim=1).clamp(min=1e-12)
    return topic_of, {
        "rows": len(after),
        "topic_tokens": int((topic_of >= 0).sum()),
        "moved": moved.mean().item(),
        "before": separation(before, topic_of),
        "after": separation(after, topic_of),
    }
