"""Knowledge of topics: a table of token vectors and small networks that were trained to tell the topic of a text.

It is one folder for one tokenizer and width, written by ``promptwise pretrain knowledge`` and read by the strategies
``pretrained`` and ``encoder`` (paper, section 3) and ``topic``. ``N`` is the number of tokens that its corpus showed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptwise.errors import KnowledgeError
from promptwise.strategies.vocabulary import VocabularyTable
from promptwise.tensor_file import TensorFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from promptwise.backbones.backbone import Backbone

WEIGHTS_FILE = "knowledge.safetensors"

_FILE = TensorFile(
    "promptwise_knowledge", 1, "promptwise pretrain knowledge", KnowledgeError, needed=("topics", "vocabulary")
)
_NETWORK, _OUTPUT = "networks.", "outputs."


@dataclass(frozen=True)
class Knowledge:
    """What was learnt about topics.

    Attributes:
        folder: Where it was read from.
        topics: Names of the topics.
        vocabulary: Fingerprint of the tokenizer's vocabulary.
        ids: ``[N]`` token ids, ascending.
        rows: ``[N, E]`` their vectors.
        topic_of: ``[N]`` the topic that a token speaks for, or -1.
        networks: Weights of the small networks, by the name of the network and the weight.
        outputs: Weights of their output layers, ``[C, F]`` and ``[C]``, by the same names; none in files of earlier
            versions.
        digest: sha256 of the file.
    """

    folder: Path
    topics: tuple[str, ...]
    vocabulary: str
    ids: Tensor
    rows: Tensor
    topic_of: Tensor
    networks: Mapping[str, Mapping[str, Tensor]]
    outputs: Mapping[str, Mapping[str, Tensor]]
    digest: str

    def check(self, backbone: Backbone) -> None:
        """Make sure that it belongs to a backbone's tokens.

        Raises:
            KnowledgeError: The vocabulary or the width is another one.
        """
        if self.vocabulary != vocabulary_fingerprint(backbone.tokenizer):
            raise KnowledgeError(
                f"The knowledge in {self.folder} was made for another vocabulary than that of {backbone.name}. Make it "
                f"with `promptwise pretrain knowledge --model {backbone.name}`."
            )
        if self.rows.shape[1] != backbone.embedding_size:
            raise KnowledgeError(
                f"The knowledge in {self.folder} has vectors of width {self.rows.shape[1]}; the word embeddings of "
                f"{backbone.name} have {backbone.embedding_size}. Make it with `promptwise pretrain knowledge --model "
                f"{backbone.name}`."
            )

    def network(self, name: str) -> Mapping[str, Tensor]:
        """The weights of a network.

        Raises:
            KnowledgeError: It was not trained.
        """
        if name not in self.networks:
            raise KnowledgeError(
                f"The knowledge in {self.folder} has the networks {', '.join(self.networks)}, not {name!r}. Use one of "
                f"them, or make it with --encoder {name}."
            )
        return self.networks[name]

    def vectors(self, ids: Tensor, embedding: nn.Module) -> Tensor:
        """Vectors ``[M, E]`` of token ids ``[M]``; a token that the corpus never showed has its frozen embedding.

        Args:
            ids: Token ids.
            embedding: The backbone's frozen word embeddings, from which the table started.
        """
        row = torch.searchsorted(self.ids, ids.long().cpu()).clamp(max=len(self.ids) - 1)
        found = (self.ids[row] == ids.long().cpu()).unsqueeze(-1)
        return torch.where(found, self.rows[row].float(), embedding(ids.long()).detach().float().cpu())

    def extend(self, table: VocabularyTable, ids: Tensor, embedding: nn.Module) -> None:
        """Give a table the vectors of token ids that it lacks.

        Raises:
            KnowledgeError: The table is frozen and has vectors of other knowledge, which its network reads.
        """

        def start(wanted: Tensor) -> Tensor:
            return self.vectors(wanted, embedding)

        if not table.begins_as(start):
            raise KnowledgeError(
                f"The adapter was made with other knowledge than that in {self.folder}, and vectors of both would be "
                "mixed. Name its own knowledge, or leave --start-from out."
            )
        table.allocate(ids, start=start)

    def standard(self, init_scale: float) -> tuple[Tensor, Tensor]:
        """The table's mean ``[E]``, and the factor that brings the rest to the spread of U(-init_scale, init_scale)."""
        centre = self.rows.float().mean(0)
        spread = (self.rows.float() - centre).square().mean().sqrt()
        return centre, init_scale / 3**0.5 / spread


def read_knowledge(folder: str | Path) -> Knowledge:
    """Read a folder.

    Raises:
        KnowledgeError: There is none, or it cannot be read, or it is of another format.
    """
    file = Path(folder).expanduser() / WEIGHTS_FILE
    if not file.is_file():
        raise KnowledgeError(
            f"{folder} holds no knowledge: {WEIGHTS_FILE} is missing. Make it with `promptwise pretrain knowledge "
            f"--out {folder}`."
        )
    about, tensors, digest = _FILE.read(file)
    return Knowledge(
        folder=Path(folder),
        topics=tuple(about["topics"]),
        vocabulary=about["vocabulary"],
        ids=tensors["ids"].long(),
        rows=tensors["rows"],
        topic_of=tensors["topic_of"].long(),
        networks=_by_network(tensors, _NETWORK),
        outputs=_by_network(tensors, _OUTPUT),
        digest=digest,
    )


def _by_network(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """The tensors below a prefix, by the names of network and weight that follow it."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            network, _, weight = key.removeprefix(prefix).partition(".")
            found.setdefault(network, {})[weight] = value
    return found


def write_knowledge(
    folder: Path,
    *,
    about: Mapping[str, Any],
    ids: Tensor,
    rows: Tensor,
    topic_of: Tensor,
    networks: Mapping[str, nn.Module],
    outputs: Mapping[str, nn.Module],
) -> str:
    """Write the file, the table in float16, whole or not at all, and return its sha256.

    Args:
        folder: Where to.
        about: ``topics`` and ``vocabulary`` of :class:`Knowledge`.
        ids: ``[N]``, ascending.
        rows: ``[N, E]``.
        topic_of: ``[N]``.
        networks: By name.
        outputs: The output layer of each network, by the same names.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {"ids": ids.int(), "rows": rows.half(), "topic_of": topic_of.to(torch.int16)}
    for prefix, modules in ((_NETWORK, networks), (_OUTPUT, outputs)):
        for name, module in modules.items():
            tensors |= {f"{prefix}{name}.{key}": value for key, value in module.state_dict().items()}
    return _FILE.write(folder / WEIGHTS_FILE, about, tensors)


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 over a tokenizer's tokens and their ids."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()
