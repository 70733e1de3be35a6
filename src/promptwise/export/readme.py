"""What stands in the README of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = """```python
import json, numpy as np, onnxruntime, tokenizers
about, tokenizer = json.load(open("export.json", encoding="utf-8")), tokenizers.Tokenizer.from_file("tokenizer.json")
tokenizer.encode_special_tokens = True  # what looks like a special token in a text is text
tokenizer.enable_truncation(about["max_length"])
tokenizer.enable_padding(pad_id=about["pad_token_id"])
encoded = tokenizer.encode_batch({texts})
inputs = {{"input_ids": [e.ids for e in encoded], "attention_mask": [e.attention_mask for e in encoded]{types}}}
logits = onnxruntime.InferenceSession("{file}").run(None, {{k: np.array(v) for k, v in inputs.items()}})[0]
shares = np.exp((logits - logits.max(-1, keepdims=True)) / about["temperature"])
print([(about["labels"][row.argmax()], float(row.max() / row.sum())) for row in shares])
```"""

_MODULE = """```python
from classify import Classifier
classifier = Classifier(".", "{file}")
for prediction in classifier.predict({texts}):
    print(prediction["label"], prediction["probabilities"])
```"""


def readme(about: Mapping[str, Any]) -> str:
    """The text of a folder's README.

    Args:
        about: What ``export.json`` holds.
    """
    files = list(about["files"])
    first = files[0]
    texts = (
        '[("A text.", "Its second text."), ("Another.", "And its second.")]'
        if about["pair"]
        else '["A text.", "Another one."]'
    )
    # Elsewhere an empty text, a template or words before the text take more than the tokenizer.
    plain = (
        first.endswith(".onnx") and about["filler"] is None and about["template"] is None and not about["words_before"]
    )
    lines = [
        f"# {about['task']}",
        "",
        f"A classifier of {len(about['labels'])} labels, exported by promptwise {about['promptwise_version']} from an "
        f"adapter on `{about['backbone']['name']}`. It needs no promptwise: {_needs(files)}.",
        "",
    ]
    if plain:
        types = ', "token_type_ids": [e.type_ids for e in encoded]' if "token_type_ids" in about["inputs"] else ""
        lines += [_PLAIN.format(texts=texts, types=types, file=first), ""]
        lines += ["`classify.py` does the same with batches of like length, from Python or the shell:", ""]
    lines += [_MODULE.format(texts=texts, file=first), "", '    python classify.py "A text." "Another one."', ""]
    lines += [
        "`export.json` has the labels in the order of the logits, the temperature that they are divided by before "
        f"they become probabilities, the most tokens of an input ({about['max_length']}), and the names of the inputs: "
        f"{', '.join(about['inputs'])}, all int64 and of any batch size and length. Padding may stand on either side.",
    ]
    if about.get("scores"):
        lines += ["", *_table(about["scores"])]
    return "\n".join(lines) + "\n"


def _needs(files: list[str]) -> str:
    packages = ["numpy", "tokenizers"]
    if any(name.endswith(".onnx") for name in files):
        packages.append("onnxruntime for the files .onnx")
    if any(name.endswith(".pt2") for name in files):
        packages.append("torch for the file .pt2")
    return f"{', '.join(packages[:-1])} and {packages[-1]}"


def _table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The scores in Markdown."""
    names = list(dict.fromkeys(metric for of_file in scores.values() for metric in of_file))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for file, of_file in scores.items():
        cells = (f"{of_file[name]:.4f}" if name in of_file else "" for name in names)
        lines.append(f"| {file} | {' | '.join(cells)} |")
    return lines
