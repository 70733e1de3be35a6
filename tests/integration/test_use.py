"""``evaluate``, ``predict``, ``info``, ``tasks`` and ``strategies`` on a trained adapter."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from promptwise import PromptedModel
from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.cli.strategy_sizes import strategy_sizes
from promptwise.config.usual_training import LORA_LR
from promptwise.reports.measured import read_measured
from promptwise.strategies.bias import TokenBias
from promptwise.tasks import task_names
from tests.integration.command import fails, ok, read_json, ticket_rows, train_flags, write_csv, write_jsonl

BASES = ("prompt", "prefix", "hidden")
TRUST = ("ece", "ece_before", "brier", "brier_before")
"""What ``evaluate`` says of probabilities."""
TEXTS = ["a good film", "", "what a terrible, boring and awful book! " * 5, "film number 3 was bad", "fun"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is wide enough for a line of any table."""
    monkeypatch.setenv("COLUMNS", "400")


def predicted(*arguments: object, stdin: bytes = b"") -> list[dict[str, object]]:
    """The rows that ``predict`` prints as JSON lines."""
    printed = ok("predict", "--dtype", "fp32", *arguments, stdin=stdin).out
    return [json.loads(line) for line in printed.splitlines()]


def check_rows(rows: list[dict[str, object]], labels: tuple[str, ...] = ("blame", "praise")) -> None:
    """Every row has a probability for each label in their order, and names the most probable one."""
    assert rows
    for row in rows:
        probabilities = row["probabilities"]
        assert isinstance(probabilities, dict)
        assert tuple(probabilities) == labels
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(probabilities, key=probabilities.__getitem__)


def one_by_one(adapter: Path, texts: list[str]) -> list[dict[str, object]]:
    """The predictions of commands that see one text each."""
    return [predicted("--adapter", adapter, "--text", text)[0] for text in texts]


def check_same(found: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    """Two lists of predictions are the same up to the rounding of a batch."""
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-5)


def test_repeated_texts_keep_their_order(trained: Path) -> None:
    """``--text`` may be repeated; a batch gives what each text gives alone."""
    rows = predicted("--adapter", trained, *(part for text in TEXTS for part in ("--text", text)))
    check_rows(rows)
    check_same(rows, one_by_one(trained, TEXTS))
    assert len({json.dumps(row) for row in rows}) > 2


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "stdin", "dash"])
def test_files_and_standard_input_keep_their_order(trained: Path, tmp_path: Path, kind: str) -> None:
    """Rows of every source come out in the order they went in, whatever the batch size."""
    lines = "".join(text + "\n" for text in TEXTS)
    source: list[object] = []
    match kind:
        case "jsonl":
            source = [write_jsonl(tmp_path / "in.jsonl", ({"body": text} for text in TEXTS))]
        case "csv":
            source = [write_csv(tmp_path / "in.csv", ({"team": "?", "body": text} for text in TEXTS))]
        case "txt":
            (tmp_path / "in.txt").write_text(lines, encoding="utf-8")
            source = [tmp_path / "in.txt"]
        case "dash":
            source = ["-"]
    rows = predicted("--adapter", trained, "--batch-size", 2, *source, stdin=lines.encode())
    check_rows(rows)
    check_same(rows, one_by_one(trained, TEXTS))


def test_a_long_file_is_streamed_in_order(trained: Path, tmp_path: Path) -> None:
    """Sorting by length inside chunks does not move rows, also past the first chunk."""
    texts = [f"film number {index} was good" + " and fun" * (index * 7 % 5) for index in range(70)]
    file = write_jsonl(tmp_path / "in.jsonl", ({"body": text} for text in texts))
    small = predicted("--adapter", trained, "--batch-size", 2, file)
    assert len(small) == 70
    check_same(small, predicted("--adapter", trained, "--batch-size", 64, file))
    check_same(small[-3:], one_by_one(trained, texts[-3:]))


def test_csv_output_parses_back(trained: Path, tmp_path: Path) -> None:
    """``--format csv`` has a header with the labels and says what the JSON lines say, also in a file."""
    texts = [part for text in TEXTS for part in ("--text", text)]
    printed = ok("predict", "--adapter", trained, "--dtype", "fp32", "--format", "csv", *texts).out
    table = list(csv.DictReader(io.StringIO(printed)))
    assert list(table[0]) == ["label", "blame", "praise"]
    rows = predicted("--adapter", trained, *texts)
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    for line, row in zip(table, rows, strict=True):
        assert {name: float(line[name]) for name in ("blame", "praise")} == row["probabilities"]
    file = tmp_path / "labels.csv"
    silent = ok("predict", "--adapter", trained, "--dtype", "fp32", "--format", "csv", "--out", file, *texts).out
    assert (silent, file.read_text(encoding="utf-8")) == ("", printed)


def test_an_input_may_have_other_columns(trained: Path, tmp_path: Path) -> None:
    """``--text-column`` of predict names the column of this file."""
    file = write_csv(tmp_path / "in.csv", ({"words": text} for text in TEXTS))
    check_same(predicted("--adapter", trained, "--text-column", "words", file), one_by_one(trained, TEXTS))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n ",
        "\U0001f600\U0001f468‍\U0001f469‍\U0001f467",
        "a good film " * 8334,
        "a" * 100_000,
        "[SEP] [MASK] [PAD]",
        "\x00",
    ],
    ids=["empty", "whitespace", "emoji", "100,000 characters", "one long word", "special tokens", "null byte"],
)
def test_strange_texts_get_a_prediction(trained: Path, text: str) -> None:
    """Empty, blank, odd and very long texts are classified like any other."""
    rows = predicted("--adapter", trained, "--text", text)
    assert len(rows) == 1
    check_rows(rows)


def test_evaluate_scores_a_file(trained: Path, tickets: Path) -> None:
    """``evaluate --data`` prints every metric by name, and the majority class beside it."""
    lines = dict(line.split(": ") for line in ok("evaluate", "--adapter", trained, "--data", tickets).out.splitlines())
    assert list(lines) == ["accuracy", *TRUST, "majority", "rows"]
    assert (lines["majority"], lines["rows"]) == ("0.5000", "40")


def test_predict_folds_token_biases(trained: Path, tiny: Path, tmp_path: Path) -> None:
    """Alone and from a folder the answers stay; what cannot be folded is refused by name."""
    model = PromptedModel.from_backbone(str(tiny), task="sst2", base="hidden", strategy="token-bias", dtype="fp32")
    with torch.no_grad():
        model.strategy.up.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "biased")
    texts = [part for text in TEXTS for part in ("--text", text)]
    with mock.patch.object(TokenBias, "fold", autospec=True, side_effect=TokenBias.fold) as fold:
        plain = predicted("--adapter", tmp_path / "biased", *texts)
        assert not fold.called
        folded = predicted("--adapter", tmp_path / "biased", "--fold", *texts)
        pooled = predicted("--adapters", tmp_path, "--names", "biased", "--fold", *texts)
        assert fold.call_count == 2
    for rows in (folded, pooled):
        for one, other in zip(rows, plain, strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-3)
    refused = ["--strategy encoder cannot be folded", "--fold is for token-bias"]
    fails(2, "predict", "--adapter", trained, "--fold", "--text", "good", says=refused)


def test_flags_that_would_change_nothing_are_refused(trained: Path, tmp_path: Path) -> None:
    """A second text without a first one, and columns where there is no file."""
    (tmp_path / "texts.txt").write_text("good\n", encoding="utf-8")
    use = ("--adapter", trained)
    fails(2, "predict", *use, "--text-pair", "b", tmp_path / "texts.txt", says=["--text-pair", "--text;"])
    fails(2, "predict", *use, "--text", "a", "--text-column", "body", says=["--text-column", "beside --text"])
    for flag in ("--text-column", "--text-pair-column", "--label-column"):
        fails(2, "evaluate", *use, flag, "body", says=[flag, "without --data"])


def test_evaluate_agrees_with_predict(trained: Path, tickets: Path) -> None:
    """The accuracy of evaluate is the share of predict's labels that are right."""
    result = json.loads(ok("evaluate", "--adapter", trained, "--data", tickets, "--json", "--dtype", "fp32").out)
    labels = [row["team"] for row in ticket_rows()]
    rows = predicted("--adapter", trained, tickets)
    right = sum(row["label"] == label for row, label in zip(rows, labels, strict=True))
    assert result["accuracy"] == right / len(labels)


@pytest.mark.parametrize(
    ("task", "metrics", "rows"),
    [("multirc", ["accuracy", "f1a", "em"], 18), ("cb", ["accuracy", "macro_f1"], 18)],
)
def test_a_task_on_pairs_from_a_local_folder(
    answers: Path, tiny: Path, tmp_path: Path, task: str, metrics: list[str], rows: int
) -> None:
    """A SuperGLUE task of the package runs from local files; evaluate repeats the test scores of the run."""
    run = tmp_path / "run"
    small = ("--epochs", 2, "--batch-size", 8, "--threads", 1, "--dtype", "fp32")
    ok("train", "--task", task, "--data-dir", answers, "--model", tiny, "--out", run, *small)
    use = ("--adapter", run, "--dtype", "fp32", "--data-dir", answers)
    recorded = read_json(run / "metrics.json")
    scores = json.loads(ok("evaluate", *use, "--json").out)
    assert list(scores) == [*metrics, *TRUST, "majority", "rows"]
    test = recorded["calibration"]["test"]
    trust = {"ece": "after", "ece_before": "before", "brier": "after", "brier_before": "before"}
    shares = {name: pytest.approx(test[when][name.partition("_")[0]], abs=1e-6) for name, when in trust.items()}
    assert scores == {**recorded["test"], **shares, "majority": recorded["majority"], "rows": rows}
    lines = ok("evaluate", *use, "--task", task).out.splitlines()
    after = [f"{name}: {scores[name]:.4f}" for name in TRUST]
    assert lines == [*(f"{name}: {recorded['test'][name]:.4f}" for name in metrics), *after, lines[-2], f"rows: {rows}"]
    labels = tuple(read_json(run / "adapter_config.json")["task"]["labels"])
    pairs = [("a good film", "it was good"), ("bad", "great fun and a story"), ("", "")]
    repeated = [part for one, two in pairs for part in ("--text", one, "--text-pair", two)]
    found = predicted("--adapter", run, *repeated)
    check_rows(found, labels)
    alone = [predicted("--adapter", run, "--text", one, "--text-pair", two)[0] for one, two in pairs]
    check_same(found, alone)


def test_a_pair_file_goes_all_the_way(tiny: Path, tmp_path: Path) -> None:
    """``--text-pair-column`` works through train, evaluate and predict, from flags and from a file."""
    rows = [{"q": row["body"], "a b": "it was good", "y": row["team"]} for row in ticket_rows()]
    data = write_csv(tmp_path / "pairs.csv", rows)
    columns = ("--text-column", "q", "--text-pair-column", "a b", "--label-column", "y")
    small = ("--epochs", 1, "--threads", 1, "--dtype", "fp32", "--out", tmp_path / "run")
    ok("train", "--data", data, *columns, "--model", tiny, *small)
    assert "rows: 40" in ok("evaluate", "--adapter", tmp_path / "run", "--data", data).out
    from_file = predicted("--adapter", tmp_path / "run", data)
    pairs = [part for row in rows[:3] for part in ("--text", row["q"], "--text-pair", row["a b"])]
    check_same(from_file[:3], predicted("--adapter", tmp_path / "run", *pairs))
    swapped = predicted("--adapter", tmp_path / "run", "--text-column", "a b", "--text-pair-column", "q", data)
    assert swapped != from_file


def test_info_shows_what_an_adapter_is(trained: Path) -> None:
    """``info`` prints task, labels, method, size, scores, seed and fingerprints."""
    config, metrics = read_json(trained / "adapter_config.json"), read_json(trained / "metrics.json")
    shown = ok("info", trained).out
    for word in (
        *("tickets", "blame, praise", "prefix", "encoder (mlp)", "classifier"),
        config["backbone"]["fingerprint"][:16],
        f"{config['tuned_parameters']:,}",
        f"accuracy {metrics['test']['accuracy']:.4f}",
        metrics["data"]["fingerprint"][:16],
    ):
        assert word in shown


def test_info_and_card_name_what_is_off_its_default(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A smaller table is said; a setting at its default is not."""
    more = ("--strategy", "random", "--table-rank", 3)
    ok(*train_flags(tickets, tiny, tmp_path / "run", *more))
    shown, card = ok("info", tmp_path / "run").out, (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "--table-rank 3" in shown
    assert "strategy random (`--table-rank 3" in card
    assert "--hard-prompt" not in shown + card


@pytest.mark.parametrize("tuned", [False, True], ids=["probed", "fine-tuned"])
def test_info_and_card_of_a_model_without_a_prompt(tickets: Path, tiny: Path, tmp_path: Path, tuned: bool) -> None:
    """Where no prompt enters the model neither base nor K is said, and a model that was tuned is not called frozen."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--strategy", "none", *(["--tune-backbone"] if tuned else []))
    # There is no K without a prompt.
    length = run.index("--length")
    ok(*run[:length], *run[length + 2 :])
    shown, card = ok("info", tmp_path / "run").out, (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    rows = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert rows["strategy"] == ("fine-tuning" if tuned else "none")
    for word in ("base ", "prefix", "prompt length", "K = ", "prompt-tuning"):
        assert word not in shown + card.replace("base_model", "")
    assert ("frozen" in card) == (not tuned)
    assert ("no prompt, classifier head" in card) == (not tuned)
    assert (f"The model `{tiny}`, fine-tuned" in card) == tuned
    assert ("parameter-efficient" in card) == (not tuned)


def test_info_and_card_of_a_model_with_lora(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """LoRA and its rank are said, the model is called frozen, and the card says what loading needs."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--strategy", "none", "--tune", "lora", "--lora-rank", 3)
    length = run.index("--length")
    ok(*run[:length], *run[length + 2 :])
    shown, card = ok("info", tmp_path / "run").out, (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    rows = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert rows["strategy"] == "LoRA (rank 3)"
    assert rows["further"] == "settings  --tune lora --lora-rank 3"
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text(encoding="utf-8"))
    assert f"{config['tuned_parameters']:,}" in rows["tuned"]
    for word in (
        "frozen model",
        "LoRA (rank 3) (`--tune lora --lora-rank 3`), classifier head",
        "- lora",
        "needs peft",
    ):
        assert word in card
    assert "prompt-tuning" not in card
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["config"]["lr"] == LORA_LR
    assert ok("predict", "--adapter", tmp_path / "run", "--text", "a good film").out


def test_info_needs_no_torch(trained: Path) -> None:
    """``info`` answers without importing torch or transformers."""
    code = (
        "import sys; from promptwise.cli.main import main; main();"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "info", str(trained)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fingerprint" in done.stdout


def test_tasks_lists_every_task() -> None:
    """``tasks`` has a line for each task, and ``tasks NAME`` prints its spec."""
    names = [line.split()[0] for line in ok("tasks").out.splitlines()]
    assert tuple(names[1:]) == task_names()
    assert len(names) == 9
    for name in task_names():
        assert f"name: {name}\n" in ok("tasks", name).out


def test_strategies_lists_every_part(tiny: Path) -> None:
    """``strategies`` names all strategies, encoders, bases, heads and tunings."""
    parts = ok("strategies", "--model", tiny).out.partition("\n\n")[0]
    lines = [tuple(line.split()[:2]) for line in parts.splitlines()[1:]]
    assert lines == [
        *[
            ("strategy", name)
            for name in (
                *("shared", "random", "pretrained", "encoder", "attention", "lopa", "idpg", "mixture", "topic"),
                *("token-bias", "context-bias", "none"),
            )
        ],
        *[("encoder", name) for name in ("cnn", "rnn", "mlp")],
        *[("base", name) for name in ("prompt", "prefix", "hidden")],
        *[("head", name) for name in ("classifier", "cloze", "tokens")],
        *[("tune", name) for name in ("none", "lora")],
    ]


def test_strategies_says_what_each_costs_and_reached(tiny: Path) -> None:
    """Shares and positions are those of a model, measured numbers those of the package, and what is unknown a dash."""
    said = json.loads(ok("strategies", "--model", tiny, "--json").out)
    assert {"base", "strategy"} <= {part["kind"] for part in said["parts"]}
    assert "hidden" in [part["name"] for part in said["parts"] if part["kind"] == "base"]
    figures = {(one["strategy"], one["base"]): one for one in said["figures"]}
    assert [base for strategy, base in figures if strategy == "random"] == ["prompt", "prefix"]
    model = PromptedModel.from_backbone(str(tiny), task="sst2", base="hidden", strategy="token-bias")
    assert figures["token-bias", "hidden"]["tuned_share"] == pytest.approx(model.tuned_share)
    assert figures["fine-tuning", ""]["tuned_share"] > 1 > figures["LoRA (rank 4)", ""]["tuned_share"]
    assert figures["random", "prompt"]["tuned_share"] is None, "it depends on the texts"
    places = {base: (figures["shared", base]["positions"], figures["shared", base]["keys"]) for base in BASES}
    assert places == {"prompt": (32, 0), "prefix": (0, 32), "hidden": (0, 0)}
    measured = read_measured()
    for (strategy, base), one in figures.items():
        key = f"{base}, {strategy}" if base else strategy
        assert one["step_to_frozen"] == measured.time.to_frozen.get(key)
        assert one["accuracy"] == measured.accuracy.mean.get(key)
    assert {"prefix, shared", "none", "fine-tuning"} <= measured.accuracy.mean.keys()
    printed = ok("strategies", "--model", tiny).out.partition("\n\n")[2]
    row = next(line for line in printed.splitlines() if line.startswith("shared") and " prefix " in line)
    assert row.split()[-1] == f"{measured.accuracy.mean['prefix, shared']:.1%}"
    assert next(line for line in printed.splitlines() if line.startswith("pretrained")).split()[2] == "-"
    for source in (measured.accuracy.date, measured.time.date, f"{measured.accuracy.train_rows:,} training rows"):
        assert source in printed
    assert measured.accuracy.model in printed


def test_the_sizes_that_come_along_are_those_of_the_settings() -> None:
    """The package's file is what the settings give on the default model."""
    sizes = read_measured().sizes
    assert strategy_sizes(DEFAULT_MODEL) == sizes


def test_measured_numbers_are_those_of_the_committed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that writes the package's file makes the same one of the records and the times that it names."""
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "benchmarks")
    script: Any = import_module("measured")
    measured = read_measured()
    monkeypatch.setattr(script, "committed", lambda path: measured.time.date)
    folder, time = root / "docs" / "results" / measured.accuracy.experiment, measured.time
    assert script.step_time(root / "docs" / "results" / "speed" / time.file, time.setup, time.dtype) == time
    made = script.accuracy(folder, list(measured.accuracy.tasks))
    assert replace(made, date=measured.accuracy.date) == measured.accuracy


def test_a_command_in_a_shell(trained: Path) -> None:
    """The installed ``python -m promptwise`` predicts from a pipe and ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "promptwise", "predict", "--adapter", str(trained), "--threads", "1"],
        input="a good film\nbad\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_rows([json.loads(line) for line in done.stdout.splitlines()])


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_columns_come_out_with_the_answers(form: str, trained: Path, tmp_path: Path) -> None:
    """Rows of any length are sorted for the model, and each answer still stands beside its own id."""
    texts = ["good", "it was bad " * 9, "a film", "great music and a good film"] * 40
    rows = [{"id": f"é{number}", "when": None, "body": text} for number, text in enumerate(texts)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = ("predict", "--adapter", trained, "--threads", 1, "--batch-size", 4, "--format", form)
    alone = ok(*flags, file).out
    found = ok(*flags, "--with-columns", "when, id", file).out
    if form == "csv":
        head, *lines = csv.reader(found.splitlines())
        assert head[:3] == ["when", "id", "label"]
        assert [line[1] for line in lines] == [row["id"] for row in rows]
        assert [line[2:] for line in lines] == list(csv.reader(alone.splitlines()))[1:]
        return
    answers = [json.loads(line) for line in found.splitlines()]
    assert [answer.pop("id") for answer in answers] == [row["id"] for row in rows]
    assert {answer.pop("when") for answer in answers} == {None}
    assert answers == [json.loads(line) for line in alone.splitlines()]


def test_columns_that_cannot_come_out_are_refused(trained: Path, tmp_path: Path) -> None:
    """One that is not there, one whose name the answers have, one named twice, and any beside plain texts."""
    file = write_jsonl(tmp_path / "rows.jsonl", [{"id": 1, "label": "praise", "body": "good"}])
    flags = ("predict", "--adapter", trained, "--threads", 1, "--with-columns")
    fails(1, *flags, "key", file, says=["'key'", "'id'", "--with-columns"])
    fails(2, *flags, "label", file, says=["'label'", "of its own"])
    fails(2, *flags, "id,id", file, says=["each column once"])
    fails(2, *flags, "id", "--text", "good", says=["--with-columns", "--text"])
