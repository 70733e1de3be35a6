"""Classify texts with an exported adapter. It needs numpy, tokenizers and onnxruntime; torch for a ``.pt2`` file alone.

    python classify.py "A text." "Another one."

A task on pairs takes the two texts one after the other. As a module: ``Classifier(folder).predict(texts)``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

Row = dict[str, Any]
"""The inputs of one text: lists of numbers, and a number in ``mask_position``."""


class Classifier:
    """An exported folder, ready to classify.

    Args:
        folder: The folder.
        model: Which of its graphs, by the name of the file; the first one without it.
        threads: CPU threads of onnxruntime; by default as many as it takes.
    """

    def __init__(self, folder: str | Path, model: str | None = None, threads: int = 0) -> None:
        self.encoder = Encoder(folder)
        self.about = self.encoder.about
        file = Path(folder) / (model or next(iter(self.about["files"])))
        self.run = _torch_graph(file) if file.suffix == ".pt2" else _onnx_graph(file, threads)

    def predict(self, texts: Sequence[Any], batch_size: int = 64) -> list[dict[str, Any]]:
        """For each text its label and the probability of each label; a pair of texts is a tuple."""
        logits = self.logits(self.encoder.rows(texts), batch_size) / self.about["temperature"]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        labels = self.about["labels"]
        return [
            {"label": labels[int(row.argmax())], "probabilities": dict(zip(labels, row.tolist(), strict=True))}
            for row in shares
        ]

    def logits(self, rows: Sequence[Row], batch_size: int = 64) -> Any:
        """Logits ``[N, C]`` of rows; those of like length share a batch."""
        found = np.zeros((len(rows), len(self.about["labels"])), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]["input_ids"]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found[places] = self.run(self.encoder.batch([rows[place] for place in places]))
        return found


def _onnx_graph(file: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    """The graph in a file of ONNX, as a function from inputs to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], inputs)[0]


def _torch_graph(file: Path) -> Callable[[dict[str, Any]], Any]:
    """The graph in a file of ``torch.export``."""
    import torch

    graph = torch.export.load(file).module()
    return lambda inputs: graph(*map(torch.from_numpy, inputs.values())).detach().numpy()


class Encoder:
    """From texts to the inputs of an exported graph.

    Args:
        folder: The exported folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.about: dict[str, Any] = json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        # What looks like a special token in a text is text.
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def rows(self, texts: Sequence[Any]) -> list[Row]:
        """The inputs of each text, or of each pair."""
        pairs = [(text, None) if isinstance(text, str) else tuple(text) for text in texts]
        for number, (_, pair) in enumerate(pairs, 1):
            if (pair is not None) != self.about["pair"]:
                raise ValueError(f"Text {number} must be {'a pair of texts' if self.about['pair'] else 'one text'}.")
        rows = list(self._plain(pairs) if self.about["template"] is None else map(self._filled, pairs))
        for row in rows:
            if not row["input_ids"]:
                # A tokenizer without special tokens makes nothing of an empty text; the model needs one position.
                row.update(input_ids=[self.about["filler"]], text_mask=[0], token_type_ids=[0])
        return rows

    def batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The inputs of the graph, padded to the longest row."""
        longest = max(len(row["input_ids"]) for row in rows)
        padding = {"input_ids": self.about["pad_token_id"]}
        found = {}
        for name in self.about["inputs"]:
            if name == "mask_position":
                values: list[Any] = [row[name] for row in rows]
            elif name == "attention_mask":
                values = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
            else:
                fill = padding.get(name, 0)
                values = [row[name] + [fill] * (longest - len(row[name])) for row in rows]
            found[name] = np.array(values, dtype=np.int64)
        return found

    def _plain(self, pairs: Sequence[tuple[str, str | None]]) -> Iterator[Row]:
        """The text itself, with the words that stand before every input."""
        words = self.about["words_before"]
        self.tokenizer.enable_truncation(self.about["max_length"], strategy="longest_first")
        inputs: Any = [words + text if pair is None else (words + text, pair) for text, pair in pairs]
        for one in self.tokenizer.encode_batch(inputs):
            places = zip(one.special_tokens_mask, one.sequence_ids, one.offsets, strict=True)
            own = [
                int(not special and not (words and sequence == 0 and stop <= len(words)))
                for special, sequence, (_, stop) in places
            ]
            yield {"input_ids": one.ids, "text_mask": own, "token_type_ids": one.type_ids}

    def _filled(self, pair: tuple[str, str | None]) -> Row:
        """The task's template with the text in it, and a mask where the answer would stand."""
        about = self.about["template"]
        texts = {"{text}": (pair[0], 1), "{text_pair}": (pair[1] or "", 2)}
        before, after = (self._part(about[name], texts) for name in ("before", "after"))
        mask = [] if about["mask_token_id"] is None else [about["mask_token_id"]]
        ids = [*about["first"], *before[0], *mask, *after[0], *about["last"]]
        fields = [0] * len(about["first"]) + before[1] + [0] * len(mask) + after[1] + [0] * len(about["last"])
        kept = kept_places(fields, self.about["max_length"])
        row: Row = {
            "input_ids": [ids[place] for place in kept],
            "text_mask": [int(fields[place] > 0) for place in kept],
        }
        if mask:
            row["mask_position"] = kept.index(len(about["first"]) + len(before[0]))
        return row

    def _part(self, pieces: Sequence[str], texts: dict[str, tuple[str, int]]) -> tuple[list[int], list[int]]:
        """Token ids of a part of the template, and of each its field: 0 template, 1 text, 2 second text."""
        part, ends = "", []
        for piece in pieces:
            value, field = texts.get(piece, (piece, 0))
            part += value
            ends.append((len(part), field))
        if not part:
            return [], []
        encoded = self.tokenizer.encode(part, add_special_tokens=False)
        fields = []
        for start, stop in encoded.offsets:
            # Some tokenizers count the space before a word to it.
            while start < stop - 1 and part[start].isspace():
                start += 1
            fields.append(next((field for end, field in ends if start < end), ends[-1][1]))
        return encoded.ids, fields


def kept_places(fields: Sequence[int], limit: int) -> list[int]:
    """Which tokens stay when the texts lose tokens from their ends, the longer text first."""
    places = {number: [place for place, field in enumerate(fields) if field == number] for number in (1, 2)}
    excess = len(fields) - limit
    while excess > 0 and (places[1] or places[2]):
        longer = 1 if len(places[1]) >= len(places[2]) else 2
        cut = max(1, min(excess, len(places[longer]) - len(places[3 - longer])))
        del places[longer][len(places[longer]) - cut :]
        excess -= cut
    texts = {*places[1], *places[2]}
    return [place for place, field in enumerate(fields) if field == 0 or place in texts]


def main() -> None:
    """Print a line of JSON for each text of the command line."""
    classifier = Classifier(Path(__file__).parent)
    texts: list[Any] = sys.argv[1:]
    if classifier.about["pair"]:
        texts = list(zip(texts[::2], texts[1::2], strict=True))
    for prediction in classifier.predict(texts):
        print(json.dumps(prediction, ensure_ascii=False))


if __name__ == "__main__":
    main()
