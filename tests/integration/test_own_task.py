"""Tasks of a person's own: a spec in a file, from training to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from promptwise.cli.main import cli
from promptwise.experiments.plan import Plan
from promptwise.experiments.read import experiment_from
from promptwise.tasks import TaskSpec, load_spec, read_spec
from tests.integration.command import fails, ok, read_json, ticket_rows, train_flags, write_csv, write_jsonl

LETTERS: dict[str, Any] = {
    "name": "letters",
    "description": "Is it praise?",
    "text": "About {subject}: {body}",
    "label": "team",
    "labels": ["praise", "blame"],
    "template": "{text} It was {mask}.",
    "label_words": {"praise": ["good", "great"], "blame": ["bad"]},
    "metrics": ["macro_f1", "accuracy"],
}


def write_spec(file: Path, **changes: Any) -> Path:
    """Write the spec of a task, with changes."""
    file.write_text(yaml.safe_dump({**LETTERS, **changes}, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A file with the task's columns."""
    return write_csv(tmp_path / "letters.csv", [{"subject": "films", **row} for row in ticket_rows()])


def flags(tiny: Path, out: Path, *more: object) -> list[str]:
    """The flags of a small run without data."""
    run = train_flags(Path("x"), tiny, out)
    return [*run[:1], *run[7:], *map(str, more)]


def test_a_task_of_ones_own_from_training_to_use(letters: Path, tiny: Path, tmp_path: Path) -> None:
    """The adapter has the spec, and every command reads a file as the spec says."""
    spec, out = write_spec(tmp_path / "letters.yaml"), tmp_path / "run"
    ok(*flags(tiny, out, "--task-spec", spec, "--data", letters, "--head", "cloze"))
    assert TaskSpec.from_dict(read_json(out / "adapter_config.json")["task"]) == read_spec(spec)
    metrics = read_json(out / "metrics.json")
    assert list(metrics["test"]) == ["macro_f1", "accuracy"]
    assert metrics["data"]["rows"] == {"train": 32, "validation": 4, "test": 4}
    plain, named = (
        ok("evaluate", "--adapter", out, "--data", letters, *more, "--dtype", "fp32").out
        for more in ((), ("--task-spec", spec))
    )
    assert plain == named
    assert "rows: 40" in plain
    assert ok("predict", "--adapter", out, letters, "--dtype", "fp32").out.count('"label"') == 40
    scored = ok("zero-shot", "--task-spec", spec, "--data", letters, "--model", tiny, "--dtype", "fp32").out
    assert "rows: 40" in scored
    assert "macro_f1" in scored


def test_the_rows_may_lie_in_a_folder(tiny: Path, tmp_path: Path) -> None:
    """``--data-dir`` holds a file for each split; an adapter is scored there without the spec's file."""
    rows = [{"subject": "films", **row} for row in ticket_rows(60)]
    for split, part in (("train", rows[:40]), ("test", rows[40:])):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", part)
    spec = write_spec(tmp_path / "letters.yaml")
    ok(*flags(tiny, tmp_path / "run", "--task-spec", spec, "--data-dir", tmp_path / "data"))
    assert read_json(tmp_path / "run" / "metrics.json")["data"]["rows"] == {"train": 36, "validation": 4, "test": 20}
    use = ("evaluate", "--adapter", tmp_path / "run", "--dtype", "fp32")
    assert "rows: 20" in ok(*use, "--data-dir", tmp_path / "data").out
    fails(2, *use, says=["'letters'", "--data"])
    scored = ok("zero-shot", "--task-spec", spec, "--data-dir", tmp_path / "data", "--model", tiny).out
    assert "rows: 20" in scored


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tempalte": "x"}, ["unknown key 'tempalte'", "'template'"]),
        ({"labels": [1, 2]}, ["labels must be a list of texts", "[1, 2]"]),
        ({"labels": None}, ["labels must be", "None"]),
        ({"metrics": ["bleu"]}, ["'bleu'", "accuracy"]),
        ({"source": {"dataset": "x/y", "split": {}}}, ["source: unknown key 'split'", "'splits'"]),
        ({"label_words": {"praise": ["good"], "blame": [False]}}, ["label_words of 'blame'", "[False]"]),
    ],
    ids=str,
)
def test_a_wrong_spec_is_named_with_its_file(
    letters: Path, tiny: Path, tmp_path: Path, changes: dict[str, Any], says: list[str]
) -> None:
    """The message has the file, the key, the value and the nearest key that exists."""
    spec = write_spec(tmp_path / "letters.yaml", **changes)
    for command in (flags(tiny, tmp_path / "run", "--data", letters), ["zero-shot", "--data", str(letters)]):
        fails(2, *command, "--task-spec", spec, says=[spec, *says])
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_spec(letters: Path, tiny: Path, tmp_path: Path) -> None:
    """A file that is not there is answered with a near one; one that is no YAML with its line."""
    run = flags(tiny, tmp_path / "run", "--data", letters, "--task-spec")
    write_spec(tmp_path / "letters.yaml")
    fails(2, *run, tmp_path / "leters.yaml", says=["leters.yaml does not exist", "'letters.yaml'"])
    for text, says in (("a: [\n", "line 2"), ("- a\n", "list"), ("", "NoneType")):
        (tmp_path / "other.yml").write_text(text, encoding="utf-8")
        fails(2, *run, tmp_path / "other.yml", says=["other.yml", says])


def test_flags_that_do_not_go_with_a_spec(letters: Path, tiny: Path, tmp_path: Path) -> None:
    """What names a task twice, or would change nothing, is refused by name."""
    spec = write_spec(tmp_path / "letters.yaml")
    run = flags(tiny, tmp_path / "run", "--task-spec", spec)
    fails(2, *run, "--task", "cb", says=["--task NAME", "--task-spec", "both"])
    fails(2, *run, "--data", letters, "--text-column", "body", says=["--text-column would change", "--task-spec"])
    fails(2, *run, "--template", "{text} {mask}", says=["--template would change", "--task-spec"])
    fails(2, *run, "--data", letters, "--validation-fraction", 0.2, says=["--validation-fraction", "--data"])
    fails(1, *run, says=["'letters'", "--data-dir"])
    fails(1, *flags(tiny, tmp_path / "run"), "--task-spec", spec, "--data-dir", tmp_path / "no", says=["no"])


def test_a_run_does_not_go_on_with_another_spec(letters: Path, tiny: Path, tmp_path: Path) -> None:
    """The data is the same, and what it is asked is not."""
    spec = write_spec(tmp_path / "letters.yaml")
    run = flags(tiny, tmp_path / "run", "--task-spec", spec, "--data", letters, "--head", "cloze")
    ok(*run)
    (tmp_path / "run" / "metrics.json").unlink()
    write_spec(spec, template="{text} All in all {mask}.")
    fails(2, *run, "--resume", says=["The task spec has changed"])
    write_spec(spec)
    ok(*run, "--resume")


def test_the_ids_of_an_experiment_know_the_spec_and_not_its_place(letters: Path, tmp_path: Path) -> None:
    """A run keeps its id when the spec's file moves, and has another one when the spec says something else."""

    def id_of(file: Path) -> str:
        tasks = {"mine": {"task_spec": str(file), "data": str(letters)}}
        run = Plan(experiment_from({"name": "x", "tasks": tasks, "methods": {"m": {}}}, "x"), {}).next_run([])
        assert run is not None
        return run.id

    first = id_of(write_spec(tmp_path / "letters.yaml"))
    assert id_of(write_spec(tmp_path / "moved.yaml")) == first
    assert id_of(write_spec(tmp_path / "letters.yaml", template="{text} All in all {mask}.")) != first


def test_what_the_help_and_the_list_of_tasks_show_are_specs(tmp_path: Path) -> None:
    """The example in the help of ``train`` is valid, and a printed task read again is that task."""
    shown = CliRunner().invoke(cli, ["train", "--help"], terminal_width=200).output
    example = shown[shown.index("  name: tickets") : shown.index("Options:")]
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    spec = read_spec(tmp_path / "example.yaml")
    assert spec.columns == ("subject", "body")
    assert spec.source is not None
    (tmp_path / "cb.yaml").write_text(ok("tasks", "cb").out, encoding="utf-8")
    assert read_spec(tmp_path / "cb.yaml") == load_spec("cb")
