"""Tests of task specs: what a spec takes, what it refuses, and the specs of the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptwise.errors import ConfigError, DataError, UnknownNameError
from promptwise.tasks import HubSource, TaskSpec, load_spec, task_names
from promptwise.tasks.fields import column_field, parse_format
from promptwise.tasks.labels import label_index, label_name

NAMES = ("ag_news", "boolq", "cb", "imdb", "multirc", "rte", "sst2", "topics13")
REPOSITORY = Path(__file__).resolve().parents[2]


def plain_spec(**changes: Any) -> dict[str, Any]:
    """Return the dictionary of a valid spec, with changes."""
    return {
        "name": "pairs",
        "description": "An example",
        "text": "{a}",
        "text_pair": "{b} {c}",
        "label": "label",
        "labels": ["no", "yes"],
        "template": "{text} {text_pair} {mask}.",
        "label_words": {"no": ["bad"], "yes": ["good", "fine"]},
        "metrics": ["accuracy", "em"],
        "group": "{idx[question]}",
        "source": {"dataset": "x/y", "config": None, "splits": {"train": "train", "test": "validation"}},
    } | changes


def test_the_package_has_eight_tasks() -> None:
    """The list is complete and sorted."""
    assert task_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_package_spec_round_trips_through_json(name: str) -> None:
    """A spec is equal to what comes back from its JSON, so a saved adapter can carry it."""
    spec = load_spec(name)
    assert spec.name == name
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", NAMES)
def test_package_template_ends_with_the_mask(name: str) -> None:
    """Every text stands before the mask, so that a decoder can fill it in; the words are one word each."""
    spec = load_spec(name)
    before, after = spec.template.split("{mask}")
    assert "{text}" in before
    assert ("{text_pair}" in before) == (spec.text_pair is not None)
    assert after == "."
    assert all(len(words) >= 2 for words in spec.label_words.values())
    assert not [word for words in spec.label_words.values() for word in words if " " in word]


def test_package_specs_follow_the_hub() -> None:
    """Test is the Hub's validation where test labels are hidden; none has a validation split of its own."""
    splits = {name: load_spec(name).source for name in NAMES}
    assert splits.pop("topics13") is None
    tests = {name: source.splits["test"] for name, source in splits.items() if source}
    hidden = dict.fromkeys(("boolq", "cb", "rte", "multirc", "sst2"), "validation")
    assert tests == hidden | {"imdb": "test", "ag_news": "test"}
    assert all(set(source.splits) == {"train", "test"} for source in splits.values() if source)


def test_label_order_is_that_of_the_hub() -> None:
    """The order of names decides what an index means."""
    assert load_spec("boolq").labels == ("no", "yes")
    assert load_spec("cb").labels == ("entailment", "contradiction", "neutral")
    assert load_spec("rte").labels == ("entailment", "not_entailment")
    assert load_spec("ag_news").labels == ("World", "Sports", "Business", "Sci/Tech")
    topics = load_spec("topics13").labels
    assert (len(topics), topics[0], topics[12]) == (13, "culture and the arts", "general reference")


def test_columns_are_those_of_both_texts() -> None:
    """Label and group columns are not asked of data to predict on."""
    assert load_spec("multirc").columns == ("paragraph", "question", "answer")
    assert load_spec("sst2").columns == ("sentence",)


def test_unknown_task_names_near_match() -> None:
    """A slip in a task name is answered with the right one."""
    with pytest.raises(UnknownNameError, match="'multirc'"):
        load_spec("multi_rc")


def test_from_dict_builds_every_part() -> None:
    """Lists become tuples, the source an object."""
    spec = TaskSpec.from_dict(plain_spec())
    assert spec.labels == ("no", "yes")
    assert spec.label_words == {"no": ("bad",), "yes": ("good", "fine")}
    assert spec.source == HubSource("x/y", None, {"train": "train", "test": "validation"})
    assert isinstance(hash(spec), int)


def test_defaults_of_template_and_words() -> None:
    """Without them, the cloze asks what the text is about, and class names are the words."""
    spec = TaskSpec("t", "", "{x}", "y", ("a_b", "c"))
    assert spec.template == "{text} It is about {mask}."
    assert spec.label_words == {"a_b": ("a b",), "c": ("c",)}
    pair = TaskSpec("t", "", "{x}", "y", ("a_b", "c"), text_pair="{z}")
    assert pair.template == "{text} {text_pair} It is about {mask}."


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"template": "{text} {text_pair}"}, "exactly one {mask}, found 0"),
        ({"template": "{text} {text_pair} {mask} {mask}"}, "exactly one {mask}, found 2"),
        ({"template": "{text} {mask}"}, "exactly one {text_pair}, found 0"),
        ({"text_pair": None}, "because the task has no text_pair"),
        ({"template": "{text} {text_pair} {mask} {word}"}, "has {word}; it can have {text}"),
        ({"template": "{text} {text_pair} {mask"}, "braces must come in pairs"),
        ({"label_words": {"no": ["bad"]}}, "no word for the label 'yes'"),
        ({"label_words": {"no": ["bad"], "yes": []}}, "no word for the label 'yes'"),
        ({"label_words": {"no": ["bad"], "yes": ["good"], "oh": ["x"]}}, "'oh', which is not among labels"),
        ({"label_words": {"no": ["bad"], "yes": ["bad"]}}, "the word 'bad' to both 'no' and 'yes'"),
        ({"label_words": {"no": [" "], "yes": ["bad"]}}, "empty word"),
        ({"labels": ["no"], "label_words": {"no": ["bad"]}}, "at least 2 classes, found 1"),
        ({"labels": ["no", "yes", "no"]}, "repeats 'no'"),
        ({"labels": [False, True]}, "labels must be a list of texts"),
        ({"metrics": ["bleu"]}, "'bleu'; known: accuracy, em"),
        ({"metrics": []}, "metrics is empty"),
        ({"group": None}, "'em', which needs group"),
        ({"text": "no column"}, "reads no column"),
        ({"text": "{a.__class__!r}"}, "stray '{'"),
        ({"text": 3}, "text must be a text, found 3"),
        ({"source": {"dataset": "x/y", "splits": {"train": "train"}}}, "source.splits has no 'test'"),
        (
            {"source": {"dataset": "x/y", "splits": {"train": "a", "test": "b", "validation": "b"}}},
            "leak the test",
        ),
        ({"source": {"dataset": "x/y", "splits": {"train": "a", "test": "b", "dev": "c"}}}, "has 'dev'"),
        ({"source": {"name": "x/y", "splits": {}}}, "unknown key 'name'"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], problem: str) -> None:
    """Each slip is refused by a message that says what was found."""
    with pytest.raises(ConfigError) as caught:
        TaskSpec.from_dict(plain_spec(**changes))
    assert problem in str(caught.value)
    assert "'pairs'" in str(caught.value)


def test_all_problems_come_in_one_message() -> None:
    """Unknown and missing keys, and wrong values, are listed together."""
    data = plain_spec(tempalte="x", metrics=["bleu"])
    del data["text"], data["labels"]
    with pytest.raises(ConfigError) as caught:
        TaskSpec.from_dict(data)
    message = str(caught.value)
    assert "has 4 problems" in message
    for part in ("text is missing", "labels is missing", "did you mean 'template'?", "'bleu'"):
        assert part in message


def test_the_constructor_checks_too() -> None:
    """A spec made in code is held to the same rules."""
    with pytest.raises(ConfigError, match="needs 2 labels, found 3"):
        TaskSpec("t", "", "{x}", "y", ("a", "b", "c"), metrics=("f1a",))


@pytest.mark.parametrize("name", ["plain", "two words", "a.b", "a{b}c", 'q"x', "a[0]", "a:b!r", "ünï", "{", "\\"])
def test_any_column_name_can_be_a_field(name: str) -> None:
    """A column is found whatever its name holds, and its value is not read as a format."""
    row_format = parse_format("<" + column_field(name) + ">")
    assert row_format.columns == (name,)
    assert row_format.render({name: "{mask} {0}"}, "f") == "<{mask} {0}>"


def test_row_format_reads_keys_and_doubled_braces() -> None:
    """Nested objects and lists are read by key; doubled braces are literal."""
    row = {"idx": {"paragraph": 3, "question": 7}, "list": ["x", "y"]}
    assert parse_format("{idx[paragraph]}-{idx[question]}").render(row, "f") == "3-7"
    assert parse_format("{{{list[1]}}}").render(row, "f") == "{y}"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"txt": "x"}, "f, line 3: no column 'text'. Columns found: 'txt'. Did you mean 'txt'?"),
        ({"text": None}, "f, line 3: column 'text' holds no value"),
        ({"text": float("nan")}, "f, line 3: column 'text' holds no value (NaN)"),
        ({"text": {"a": 1}}, "must hold text, found dict"),
        ({"text": "a\ud800b"}, "half of a surrogate pair ('\\ud800' at character 2)"),
    ],
)
def test_row_format_names_what_it_cannot_read(row: dict[str, Any], problem: str) -> None:
    """Missing columns, missing values, objects and broken characters are named with their place."""
    with pytest.raises(DataError) as caught:
        parse_format("{text}").render(row, "f, line 3")
    assert problem in str(caught.value)


def test_row_format_names_a_missing_key() -> None:
    """A nested column of another shape is refused with what it holds."""
    row_format = parse_format("{idx[question]}")
    with pytest.raises(DataError, match=r"no key 'question'. Keys found: 'paragraph'"):
        row_format.render({"idx": {"paragraph": 1}}, "f")
    with pytest.raises(DataError, match="found int 5"):
        row_format.render({"idx": 5}, "f")


def test_import_is_light() -> None:
    """Listing tasks must not wait for the model and data libraries."""
    code = (
        "import sys, promptwise.tasks as t, promptwise.tasks.sources; t.load_spec('rte');"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": _source()})
    assert done.stdout.strip() == "[]"


def _source() -> str:
    import promptwise.errors

    return str(Path(promptwise.errors.__file__).parents[1])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("not_spam", "spam"), ("not spam", "spam")),
        (("not_spam", "not spam"), ("not_spam", "not spam")),
        (("_", "a_b"), ("_", "a b")),
    ],
)
def test_usual_words_are_never_refused(labels: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Words that nobody chose must not make a person's data unusable."""
    spec = TaskSpec("toy", "toy", text="{text}", label="label", labels=labels)
    assert tuple(spec.label_words[label][0] for label in labels) == words


@pytest.mark.parametrize(
    ("labels", "yes"),
    [(("no", "yes"), 1), (("yes", "no"), 0), (("1", "0"), 0), (("True", "False"), 0), (("spam", "ham"), 1)],
)
def test_truth_values_mean_what_class_names_say(labels: tuple[str, ...], yes: int) -> None:
    """``true`` is ``yes`` in whichever order the classes are; of other names it is the second one."""
    for value in (True, "true", "TRUE"):
        assert label_index(labels, value, "row 1") == yes
    assert label_index(labels, False, "row 1") == 1 - yes


def test_half_a_character_is_no_class_name() -> None:
    """It would be trained on, and fail when the adapter is written."""
    with pytest.raises(DataError, match=r"row 4: the label holds half of a surrogate pair .* at character 4\)"):
        label_name("bad\ud83d", "row 4")
