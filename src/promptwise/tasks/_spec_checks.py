"""Checks of a task spec in its plain (JSON) form: what is wrong comes back as sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from promptwise.tasks.fields import parse_format
from promptwise.tasks.metrics import METRICS
from promptwise.tasks.problems import PROBLEMS, SINGLE

_FORMATS = ("text", "text_pair", "group", "split_group")
_TEMPLATE_FIELD = re.compile(r"\{([^{}]*)\}")
SPLITS = ("train", "validation", "test")


def spec_problems(data: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong with what the values of a spec mean; keys that are absent are not looked at.

    Every value must have the right type.
    """
    if data.get("problem", SINGLE) not in PROBLEMS:
        return [f"problem is {data['problem']!r}; known: {', '.join(PROBLEMS)}"]
    return [
        *_name_problems(data),
        *_format_problems(data),
        *_label_problems(data),
        *_template_problems(data),
        *_word_problems(data),
        *_metric_problems(data),
        *_source_problems(data),
    ]


def _name_problems(data: Mapping[str, Any]) -> Iterator[str]:
    for key in ("name", "text", "label"):
        if key in data and not data[key].strip():
            yield f"{key} is empty"
    name = data.get("name", "")
    if name in (".", "..") or any(mark in name for mark in "/\\\0"):
        yield f"name {name!r} cannot be that of a folder; use letters, digits and underscores"


def _format_problems(data: Mapping[str, Any]) -> Iterator[str]:
    for key in _FORMATS:
        if data.get(key) is None:
            continue
        try:
            columns = parse_format(data[key]).columns
        except ValueError as error:
            yield f"{key} {error}"
            continue
        if not columns:
            yield f"{key} {data[key]!r} reads no column; write the column in braces, as in '{{sentence}}'"


def _label_problems(data: Mapping[str, Any]) -> Iterator[str]:
    yield from PROBLEMS[data.get("problem", SINGLE)].spec_problems(data)
    labels = data.get("labels", ())
    repeated = sorted(label for label, count in Counter(labels).items() if count > 1)
    if repeated:
        yield f"labels repeats {', '.join(map(repr, repeated))}"
    padded = [label for label in labels if label != label.strip() or not label]
    if padded:
        yield f"labels are empty or padded with spaces: {', '.join(map(repr, padded))}"


def _template_fields(template: str) -> list[str]:
    """Return the names in braces of a cloze template, in order.

    Raises:
        ValueError: A brace has no partner; templates cannot hold literal braces.
    """
    outside = _TEMPLATE_FIELD.sub("", template)
    if "{" in outside or "}" in outside:
        raise ValueError("braces must come in pairs, around the name of a field")
    return _TEMPLATE_FIELD.findall(template)


def _template_problems(data: Mapping[str, Any]) -> Iterator[str]:
    if "template" not in data:
        return
    template = data["template"]
    try:
        names = _template_fields(template)
    except ValueError as error:
        yield f"template {template!r}: {error}"
        return
    allowed = ["text", "mask"] if data.get("text_pair") is None else ["text", "text_pair", "mask"]
    for name in sorted(set(names) - set(allowed)):
        known = ", ".join(f"{{{one}}}" for one in allowed)
        why = ", because the task has no text_pair" if name == "text_pair" else ""
        yield f"template {template!r} has {{{name}}}; it can have {known}{why}"
    for name in allowed:
        if names.count(name) != 1:
            yield f"template {template!r} needs exactly one {{{name}}}, found {names.count(name)}"


def _word_problems(data: Mapping[str, Any]) -> Iterator[str]:
    if "labels" not in data or "label_words" not in data:
        return
    labels, words = data["labels"], data["label_words"]
    for label in labels:
        if not words.get(label):
            yield f"label_words has no word for the label {label!r}"
    for label in sorted(set(words) - set(labels)):
        yield f"label_words has {label!r}, which is not among labels"
    owners: dict[str, str] = {}
    for label, own in words.items():
        if any(not word.strip() for word in own):
            yield f"label_words of {label!r} has an empty word"
        for word in dict.fromkeys(own):
            if word in owners:
                yield f"label_words gives the word {word!r} to both {owners[word]!r} and {label!r}"
            owners.setdefault(word, label)


def _metric_problems(data: Mapping[str, Any]) -> Iterator[str]:
    if "metrics" not in data:
        return
    if not data["metrics"]:
        yield "metrics is empty; the first one selects checkpoints"
    for name in data["metrics"]:
        metric = METRICS.get(name)
        if metric is None:
            yield f"metrics has {name!r}; known: {', '.join(sorted(METRICS))}"
        elif metric.needs_groups and data.get("group") is None:
            yield f"metrics has {name!r}, which needs group"
        elif data.get("problem", SINGLE) not in metric.problems:
            own = [one.name for one in METRICS.values() if data.get("problem", SINGLE) in one.problems]
            yield (
                f"metrics has {name!r}, which is for {' and '.join(metric.problems)}; those of "
                f"{data.get('problem', SINGLE)} are {', '.join(own)}"
            )
        elif metric.two_classes and len(data.get("labels", ("", ""))) != 2:
            yield f"metrics has {name!r}, which needs 2 labels, found {len(data['labels'])}"


def _source_problems(data: Mapping[str, Any]) -> Iterator[str]:
    if data.get("source") is None:
        return
    if data["source"].get("dataset") == "":
        yield "source.dataset must name a Hub dataset, found ''"
    splits = data["source"].get("splits", {})
    for split in sorted(set(splits) - set(SPLITS)):
        yield f"source.splits has {split!r}; known: {', '.join(SPLITS)}"
    for split in ("train", "test"):
        if split not in splits:
            yield f"source.splits has no {split!r}"
    used = list(splits.values())
    for hub in sorted({hub for hub in used if used.count(hub) > 1}):
        yield f"source.splits uses the Hub split {hub!r} more than once, which would leak the test"
