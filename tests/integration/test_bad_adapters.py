"""Adapters that are incomplete, altered or made for another backbone; backbones that must not be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import promptwise
from promptwise.errors import AdapterError
from promptwise.models.prompted import PromptedModel
from promptwise.training.run_metrics import RunMetrics
from tests.integration.command import fails, ok, read_json, train_flags

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def use(adapter: Path, *more: object) -> list[object]:
    """A prediction of an adapter."""
    return ["predict", "--adapter", adapter, "--text", "a good film", *more]


def test_another_backbone_is_refused_with_both_fingerprints(trained: Path, tiny: Path, other_tiny: Path) -> None:
    """An adapter is not put on other weights; the message has both fingerprints."""
    made_for = read_json(trained / CONFIG)["backbone"]["fingerprint"]
    found = promptwise.load_backbone(str(other_tiny)).fingerprint
    assert made_for != found
    fails(1, *use(trained, "--model", other_tiny), says=[tiny, made_for[:16], other_tiny, found[:16]])
    ok(*use(trained, "--model", tiny))


def cut(data: bytes) -> bytes:
    """A file whose end is missing."""
    return data[:-7]


def flip(data: bytes) -> bytes:
    """A file with one bit changed."""
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize("harm", [cut, flip, lambda data: b""], ids=["cut", "flipped bit", "empty"])
def test_altered_weights_are_noticed(adapter: Path, tickets: Path, harm: Callable[[bytes], bytes]) -> None:
    """Weights that differ from what was saved in as little as a bit are not loaded."""
    file = adapter / WEIGHTS
    file.write_bytes(harm(file.read_bytes()))
    for command in (use(adapter), ["evaluate", "--adapter", adapter, "--data", tickets]):
        fails(1, *command, says=[file, "sha256", "Nothing was loaded"])
    with pytest.raises(AdapterError):
        PromptedModel.from_pretrained(adapter)


def test_weights_that_are_no_safetensors_are_refused(adapter: Path) -> None:
    """A file that has the recorded sha256 but is no safetensors file is named."""
    (adapter / WEIGHTS).write_bytes(b"no tensors")
    config = read_json(adapter / CONFIG)
    config["weights_sha256"] = hashlib.sha256(b"no tensors").hexdigest()
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    fails(1, *use(adapter), says=[adapter / WEIGHTS])


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_not_finite_are_refused(
    adapter: Path, tickets: Path, tiny: Path, tmp_path: Path, number: float
) -> None:
    """A tensor with one number that is none is named, wherever the adapter is loaded; nothing is printed."""
    tensors = load_file(adapter / WEIGHTS)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = number
    save_file(tensors, adapter / WEIGHTS)
    config = read_json(adapter / CONFIG)
    config["weights_sha256"] = hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    for command in (
        use(adapter),
        ["evaluate", "--adapter", adapter, "--data", tickets],
        train_flags(tickets, tiny, tmp_path / "run", "--start-from", adapter),
    ):
        fails(1, *command, says=[adapter / WEIGHTS, name, "not finite"])


def test_scores_that_are_not_finite_are_refused(trained: Path, tickets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is named by its place among all inputs, also past the first batches."""
    forward = PromptedModel.forward

    def overflow(self: PromptedModel, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = forward(self, input_ids, *args, **kwargs)
        result.logits[(input_ids == bad).any(1)] = float("inf")
        return result

    model = PromptedModel.from_pretrained(trained)
    bad = model.backbone.tokenizer.convert_tokens_to_ids("awful")
    monkeypatch.setattr(PromptedModel, "forward", overflow)
    texts = [part for text in ["good"] * 37 + ["awful"] for part in ("--text", text)]
    fails(1, "predict", "--adapter", trained, "--batch-size", 2, *texts, says=["row 38", "not finite", "--dtype fp32"])
    fails(1, "evaluate", "--adapter", trained, "--data", tickets, says=["row 2 ", "not finite"])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(adapter: Path, name: str) -> None:
    """Without one of its two files an adapter is refused, and the file named."""
    (adapter / name).unlink()
    fails(1, *use(adapter), says=[adapter, name])


def test_pickled_weights_are_not_read(adapter: Path) -> None:
    """A ``.bin`` beside the configuration is no substitute for safetensors."""
    (adapter / WEIGHTS).unlink()
    torch.save({}, adapter / "adapter_model.bin")
    fails(1, *use(adapter), says=[WEIGHTS, "adapter_model.bin", "never read"])


def test_a_place_without_an_adapter_is_named(tmp_path: Path, tickets: Path) -> None:
    """A missing folder, an empty one, a file and an unknown name each end with a message."""
    (tmp_path / "empty").mkdir()
    for place, words in (
        (tmp_path / "no", ["no such folder"]),
        (tmp_path / "empty", ["empty"]),
        (tickets, ["file"]),
        (tickets.parent, ["tickets.csv"]),
        ("some/adapter", ["'some/adapter'", "cache"]),
    ):
        fails(1, *use(Path(place)), says=[place, *words])
        fails(1, "info", place, says=[place, *words])


TEXTS = {
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "empty": b"",
    "nothing in it": b"{}",
    "deeply nested": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_configuration_that_is_no_configuration(adapter: Path, kind: str) -> None:
    """A configuration that cannot be read is named by every command."""
    (adapter / CONFIG).write_bytes(TEXTS[kind])
    fails(1, *use(adapter), says=[adapter / CONFIG])
    fails(1, "info", adapter, says=[adapter / CONFIG])


CHANGES: dict[str, dict[str, Any]] = {
    "later format": {"format": 2},
    "backbone is a text": {"backbone": "bert"},
    "backbone is empty": {"backbone": {}},
    "prompt is a list": {"prompt": []},
    "prompt has an unknown key": {"prompt": {"nope": 1}},
    "prompt has a wrong type": {"prompt": {"strategy": "shared", "length": "many"}},
    "prompt has an unknown name": {"prompt": {"strategy": "nope"}},
    "task is missing": {"task": None},
    "task is empty": {"task": {}},
    "labels have a wrong type": {"task": {"name": "x", "description": "", "text": "{a}", "label": "b", "labels": 3}},
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("command", ["predict", "evaluate", "from_pretrained"])
def test_a_configuration_with_wrong_values(adapter: Path, tickets: Path, kind: str, command: str) -> None:
    """Wrong values end with exit code 1 and the file's name: nothing is loaded."""
    config = {**read_json(adapter / CONFIG), **CHANGES[kind]}
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    match command:
        case "predict":
            fails(1, *use(adapter), says=[adapter / CONFIG])
        case "evaluate":
            fails(1, "evaluate", "--adapter", adapter, "--data", tickets, says=[adapter / CONFIG])
        case _:
            with pytest.raises(AdapterError, match=CONFIG):
                PromptedModel.from_pretrained(adapter)


@pytest.mark.parametrize("kind", CHANGES)
def test_info_of_a_configuration_with_wrong_values(adapter: Path, kind: str) -> None:
    """``info`` says what is wrong with a configuration too."""
    config = {**read_json(adapter / CONFIG), **CHANGES[kind]}
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    fails(1, "info", adapter, says=[adapter / CONFIG])


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_info_with_broken_metrics_names_the_file(adapter: Path, text: str) -> None:
    """A ``metrics.json`` that cannot be read does not look like a fault of the program."""
    (adapter / "metrics.json").write_text(text, encoding="utf-8")
    fails(1, "info", adapter, says=["metrics.json"])


def test_metrics_keep_their_form(trained: Path) -> None:
    """Reading and writing the metrics of a run gives the same bytes; older files have fewer keys, later ones more."""
    text = (trained / "metrics.json").read_text(encoding="utf-8")
    values = json.loads(text)
    assert json.dumps(RunMetrics.from_dict(values).to_dict(), indent=2, ensure_ascii=False) + "\n" == text
    older = {key: values[key] for key in ("test", "validation", "majority", "seed", "parameters", "data", "time")}
    assert RunMetrics.from_dict({**older, "later": 1}).test == values["test"]


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("metrics.json", {"majority": "half"}, ["majority must be a number", "'half'"]),
        ("metrics.json", {"majority": None}, ["majority must be a number", "None"]),
        ("metrics.json", {"test": {"accuracy": "0.5"}}, ["test of 'accuracy' must be a number", "'0.5'"]),
        ("metrics.json", {"seed": "0"}, ["seed must be a whole number", "'0'"]),
        ("metrics.json", {"data": {"origin": "x", "rows": {}}}, ["data: fingerprint is missing"]),
        ("metrics.json", {"test": {"accuracy": None}}, ["test of 'accuracy' must be a number", "None"]),
        ("metrics.json", {"seed": True}, ["seed must be a whole number", "True"]),
        ("metrics.json", {"data": {"origin": 1, "fingerprint": "y", "rows": {}}}, ["data.origin must be a text", "1"]),
        ("metrics.json", {"time": None}, ["time must be", "None"]),
        ("metrics.json", {"parameters": {}}, ["parameters: tuned is missing"]),
        (CONFIG, {"tuned_share": "1%"}, ["tuned_share must be a number", "'1%'"]),
        (CONFIG, {"tuned_parameters": None}, ["tuned_parameters must be a whole number", "None"]),
        (CONFIG, {"backbone": {"name": "x", "model_type": "bert"}}, ["backbone: fingerprint is missing"]),
        (CONFIG, {"prompt": {"lenght": 3}}, ["'lenght'", "'length'"]),
        (CONFIG, {"prompt": {"strategy": "shared", "length": 8.5}}, ["length", "8.5"]),
    ],
    ids=str,
)
def test_info_names_file_key_and_value(adapter: Path, file: str, change: dict[str, Any], says: list[str]) -> None:
    """What does not fit is named with its place and the value that was found; nothing is guessed."""
    (adapter / file).write_text(json.dumps({**read_json(adapter / file), **change}), encoding="utf-8")
    fails(1, "info", adapter, says=[adapter / file, *says])


def test_keys_of_a_later_version_are_passed_over(adapter: Path) -> None:
    """A file of the same format that holds more is read."""
    for file in (CONFIG, "metrics.json"):
        (adapter / file).write_text(json.dumps({**read_json(adapter / file), "later": 1}), encoding="utf-8")
    ok("info", adapter)


@pytest.mark.parametrize("change", [{"length": 5}, {"strategy": "shared"}, {"base": "prompt"}], ids=str)
def test_weights_of_another_shape_are_refused(adapter: Path, change: dict[str, Any]) -> None:
    """A configuration that asks for other tensors than the file has is refused."""
    config = read_json(adapter / CONFIG)
    config["prompt"] |= change
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    fails(1, *use(adapter), says=[WEIGHTS, CONFIG])


def test_a_backbone_with_pickled_weights_only_is_refused(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """``pytorch_model.bin`` is not read; the message says what to do instead."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    fails(1, *train_flags(tickets, folder, tmp_path / "run"), says=["pytorch_model.bin", "safetensors"])


def test_a_folder_that_is_no_backbone_is_refused(tickets: Path, tmp_path: Path) -> None:
    """Without a configuration, without weights, and with broken weights a folder is named and refused."""
    folder = tmp_path / "model"
    folder.mkdir()
    run = train_flags(tickets, folder, tmp_path / "run")
    fails(1, *run, says=[folder, "config.json"])
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    fails(1, *run, says=[folder, "safetensors"])
    (folder / "model.safetensors").write_bytes(b"nothing")
    fails(1, *run, says=[folder])
