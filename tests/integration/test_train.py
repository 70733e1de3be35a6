"""What ``promptwise train`` writes, and where its settings come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from promptwise import PromptedModel
from tests.integration.command import contents, fails, ok, read_json, train_flags


def test_a_run_writes_adapter_metrics_and_card(trained: Path) -> None:
    """A finished run holds its five files and nothing else."""
    assert set(contents(trained)) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.json",
        "train_config.json",
        "README.md",
    }
    assert {path.name for path in trained.iterdir() if path.is_dir()} == set()


def test_metrics_record_what_a_result_depends_on(trained: Path, tickets: Path) -> None:
    """``metrics.json`` has scores, seed, versions, data, parameters, time and memory."""
    metrics = read_json(trained / "metrics.json")
    assert metrics["seed"] == 0
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert 0 <= metrics["validation"]["accuracy"] <= 1
    assert metrics["majority"] == 0.5
    assert {"promptwise", "python", "torch", "transformers", "device"} <= set(metrics["versions"])
    assert metrics["data"]["origin"] == str(tickets)
    assert len(metrics["data"]["fingerprint"]) == 64
    assert metrics["data"]["rows"] == {"train": 32, "validation": 4, "test": 4}
    assert metrics["parameters"]["tuned"] > 0
    assert metrics["parameters"]["share"] == metrics["parameters"]["tuned"] / metrics["parameters"]["backbone"]
    assert metrics["time"]["train_s"] > 0
    assert metrics["memory"]["process_peak_mib"] > 0
    assert metrics["steps"] == 12


def test_the_card_has_valid_front_matter(trained: Path, tiny: Path) -> None:
    """``README.md`` starts with a YAML block that the Hub takes, and shows the backbone's folder and the scores."""
    _, header, body = (trained / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    data = yaml.safe_load(header)
    # The Hub refuses a card whose base model is no repository.
    assert "base_model" not in data
    assert f"`{tiny}`" in body
    assert [one["type"] for one in data["model-index"][0]["results"][0]["metrics"]] == ["accuracy"]
    assert data["library_name"] == "promptwise"
    assert "| test | 4 |" in body


def test_the_end_of_a_run_is_printed(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Scores, row counts, tuned parameters and the folder are printed on standard output."""
    out = tmp_path / "run"
    printed = ok(*train_flags(tickets, tiny, out)).out
    metrics = read_json(out / "metrics.json")
    assert f"{metrics['test']['accuracy']:.4f}" in printed
    assert "rows: 32 train, 4 validation, 4 test" in printed
    assert f"{metrics['parameters']['tuned']:,}" in printed
    assert str(out) in printed.replace("\n", "")


def test_the_same_command_gives_the_same_adapter(tickets: Path, tiny: Path, tmp_path: Path, trained: Path) -> None:
    """Two runs with one seed have the same bits, and another seed has others."""
    for name, seed in (("again", 0), ("other", 1)):
        ok(*train_flags(tickets, tiny, tmp_path / name, "--epochs", 3, "--seed", seed))
    first = contents(trained)["adapter_model.safetensors"]
    assert contents(tmp_path / "again")["adapter_model.safetensors"] == first
    assert contents(tmp_path / "other")["adapter_model.safetensors"] != first


def test_half_the_size_is_the_model_that_was_scored(tickets: Path, tiny: Path, tmp_path: Path, trained: Path) -> None:
    """With ``--half`` the weights are in float16, and evaluating the adapter gives the scores of its run."""
    folder = tmp_path / "half"
    printed = ok(*train_flags(tickets, tiny, folder, "--epochs", 3, "--half")).out
    tensors, whole = (load_file(one / "adapter_model.safetensors") for one in (folder, trained))
    assert tensors.keys() == whole.keys()
    assert {one.dtype for one in tensors.values() if one.is_floating_point()} == {torch.float16}
    assert any(one.dtype == torch.float32 for one in whole.values())
    model = PromptedModel.from_pretrained(folder, str(tiny), dtype="fp32")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, tensors[name].float())
    score = read_json(folder / "metrics.json")["test"]["accuracy"]
    assert f"{score:.4f}" in printed
    model.save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again")["adapter_model.safetensors"] == contents(folder)["adapter_model.safetensors"]


def test_tensorboard_gets_an_event_file(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """``--report-to tensorboard`` leaves an event file in the run's folder."""
    pytest.importorskip("tensorboard")
    ok(*train_flags(tickets, tiny, tmp_path / "run", "--report-to", "tensorboard"))
    assert len(list((tmp_path / "run").rglob("events.out.tfevents*"))) == 1


def test_a_setting_of_the_config_file_is_given_once(tmp_path: Path) -> None:
    """``-`` and ``_`` are the same letter there."""
    (tmp_path / "run.yaml").write_text("task: cb\nmax-length: 64\nmax_length: 32\n", encoding="utf-8")
    fails(2, "train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run", says=["has max_length twice"])


def test_flags_win_over_the_config_file(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Keys of the file count unless a flag says otherwise, written with ``-`` or with ``_``."""
    file = tmp_path / "run.yaml"
    settings = {
        "data": str(tickets),
        "text-column": "nonsense",
        "label_column": "team",
        "model": str(tiny),
        "batch-size": 4,
        "max_length": 20,
        "length": 7,
        "epochs": 1,
        "threads": 1,
        "dtype": "fp32",
        "train-table": True,
        "lr": "1e-3",
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ok(
        "train",
        "--config",
        file,
        "--text-column",
        "body",
        "--strategy",
        "encoder",
        "--length",
        3,
        "--no-train-table",
        "--out",
        tmp_path / "run",
    )
    used = read_json(tmp_path / "run" / "train_config.json")
    assert used["text_column"] == "body"
    assert (used["length"], used["batch_size"], used["max_length"]) == (3, 4, 20)
    assert (used["train_table"], used["lr"]) == (False, 1e-3)


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize(
    "strategy",
    [
        ("--strategy", "shared"),
        ("--strategy", "random"),
        ("--encoder", "cnn"),
        ("--encoder", "rnn"),
        ("--encoder", "mlp"),
        ("--encoder", "mlp", "--train-table"),
        ("--head", "cloze"),
    ],
    ids=" ".join,
)
def test_every_method_trains_and_comes_back(
    tickets: Path, tiny: Path, tmp_path: Path, base: str, strategy: tuple[str, ...]
) -> None:
    """Each base with each strategy, encoder and head runs from the flags to a prediction of the loaded adapter."""
    ok(*train_flags(tickets, tiny, tmp_path / "run", "--base", base, *strategy))
    assert '"label"' in ok("predict", "--adapter", tmp_path / "run", "--text", "a good film", "--dtype", "fp32").out


@pytest.mark.slow
def test_a_compiled_run_is_the_same_training(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """``--compile`` changes rounding alone, and the adapter has the names that it always has."""
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        ok(*train_flags(tickets, tiny, tmp_path / name, "--epochs", 3, "--strategy", "random", *more))
    plain, compiled = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "compiled"))
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
    assert read_json(tmp_path / "compiled" / "metrics.json")["config"]["compile"] is True


def test_a_limit_of_minutes_keeps_the_best_checkpoint(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Without any time training ends with its first step, which is scored; metrics and printed lines say so."""
    out = ok(*train_flags(tickets, tiny, tmp_path / "run", "--epochs", 3, "--max-minutes", 0)).out
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert (metrics["steps"], metrics["best_step"]) == (1, 1)
    assert metrics["stopped"] == {"epochs": pytest.approx(0.25), "reason": "max_minutes"}
    assert "stopped after 0.25 epochs, step 1: --max-minutes 0" in out
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    ok(*train_flags(tickets, tiny, tmp_path / "whole", "--max-minutes", 60))
    assert read_json(tmp_path / "whole" / "metrics.json")["stopped"] == {"epochs": 1.0, "reason": "epochs"}
