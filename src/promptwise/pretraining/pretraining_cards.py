"""The model cards of cloze weights and of knowledge, from what their runs measured."""

from __future__ import annotations

from typing import Any

import yaml

from promptwise.backbones.hub import DEFAULT_MODEL


def cloze_card(metrics: dict[str, Any], name: str) -> str:
    """The card in Markdown with the Hub's metadata block.

    Args:
        metrics: What ``metrics.json`` holds.
        name: Folder or name, as the usage example gives it.
    """
    config, corpus = metrics["config"], metrics["corpus"]
    before, after = metrics["history"][0], metrics["written"]
    header = {
        "base_model": metrics["backbone"]["name"],
        "library_name": "promptwise",
        "pipeline_tag": "fill-mask",
        "tags": ["promptwise", "masked-lm", "lora"],
    }
    sources = "\n".join(f"- `{source}`" for source in corpus["sources"])
    earlier = f" after {metrics['earlier_tokens']:,} in earlier runs" if metrics["earlier_tokens"] else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=True).strip()}
---

# A language-model head for {metrics["backbone"]["name"]}

A masked-language-model head and low-rank updates (rank {config["rank"]}) of the encoder's matrices:
{metrics["trained_parameters"]:,} numbers in float16, put on top of the frozen encoder when it is loaded. The output
matrix is the encoder's own word embeddings.

```python
from promptwise.backbones.backbone import load_backbone

backbone = load_backbone("{name}")
print(type(backbone.model).__name__, backbone.tokenizer.mask_token)
```

## Corpus

{sources}

{corpus["paragraphs"]:,} paragraphs, {corpus["tokens"]:,} tokens in blocks of {config["block_length"]}; beside them
{corpus["held_out_paragraphs"]:,} paragraphs were held out by their hash and never trained on.

## Training

{metrics["steps"]:,} steps, {metrics["tokens"]:,} tokens seen{earlier}, {metrics["time"]["train_s"] / 3600:.1f} hours on
{metrics["versions"]["device"]}; {config["mask_rate"]:.0%} of the tokens masked as whole words (80/10/10), AdamW with
peak learning rate {config["lr"]:g}, cosine schedule, seed {config["seed"]}.

| held-out accuracy | before | after |
|---|---|---|
| of all predicted tokens | {before["accuracy"]:.3f} | {after["accuracy"]:.3f} |
| of those at the mask token | {before["accuracy_mask_token"]:.3f} | {after["accuracy_mask_token"]:.3f} |

The second column is this file's, read back. Both are on {corpus["held_out_tokens"]:,} held-out tokens with fixed
masks; a tenth of the predicted tokens stand in the text unchanged, which makes the first number the higher one.

## Limits

The encoder's sentence embeddings are no longer what they were: use the plain encoder for them. The model knows the
language of its corpus alone, was trained on blocks of {config["block_length"]} tokens, and was trained far less than
a model that was pretrained to fill masks from its start.
"""


def knowledge_card(metrics: dict[str, Any], name: str) -> str:
    """The card of a folder of knowledge.

    Args:
        metrics: What ``metrics.json`` holds.
        name: The folder, as the usage example gives it.
    """
    config, corpus, table = metrics["config"], metrics["corpus"], metrics["table"]
    header = {
        "base_model": metrics["backbone"]["name"],
        "library_name": "promptwise",
        "tags": ["promptwise", "prompt-tuning", "topics"],
    }
    model = "" if config["model"] == DEFAULT_MODEL else f" --model {config['model']}"
    network, names = config["encoder"][0], list(next(iter(metrics["test"].values())))
    topics = "\n".join(f"| {topic} | {count:,} |" for topic, count in corpus["topics"].items())
    scores = "\n".join(
        f"| {network} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |"
        for network, values in metrics["test"].items()
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=True).strip()}
---

# Knowledge of topics for the tokens of {metrics["backbone"]["name"]}

A table of token vectors and small networks over it, trained together to tell the topic of a text. Prompts start from
it:

```bash
promptwise train --task sst2 --strategy pretrained{model} --knowledge {name} --out runs/p
promptwise train --task sst2 --strategy encoder --encoder {network}{model} --knowledge {name} --out runs/e
```

## Corpus

`{corpus["name"]}`: {corpus["description"]}, from {corpus["origin"]}. {corpus["rows"]["train"]:,} texts to train on,
{corpus["rows"]["validation"]:,} to choose the checkpoint, {corpus["rows"]["test"]:,} to score it.

| topic | texts |
|---|---|
{topics}

In the loss a topic counts as much as any other.

## Results on the test texts

| network | {" | ".join(names)} |
|---{"|---" * len(names)}|
{scores}

Always the most frequent topic: {metrics["majority"]:.3f}. Seed {config["seed"]}, one run, {metrics["steps"]:,} steps;
the checkpoint of step {metrics["best_step"]:,} was the best on the validation texts.

## Table

{table["rows"]:,} rows, each started at the token's frozen word embedding; on average a row moved by
{table["moved"]:.2f} of its length. {table["topic_tokens"]:,} tokens speak for one topic. Mean cosine similarity of two
of them:

| table | one topic | different topics |
|---|---|---|
| before | {table["before"]["same_topic"]:.3f} | {table["before"]["other_topic"]:.3f} |
| after | {table["after"]["same_topic"]:.3f} | {table["after"]["other_topic"]:.3f} |

## Limits

It fits the tokenizer and the width of {metrics["backbone"]["name"]} alone, and knows the topics above as its corpus
draws them. Do not train a task on the very texts that it was learnt from.
A token that the corpus never showed has its word embedding.
"""
