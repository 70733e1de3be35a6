"""Presets of the paper, and experiments whose runs start from what is pre-trained first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from promptwise.errors import ConfigError
from promptwise.experiments.plan import Plan
from promptwise.experiments.read import experiment_from, preset_names, read_experiment
from promptwise.strategies.knowledge import read_knowledge
from promptwise.tasks import task_names
from tests.integration.command import contents, fails, ok, read_json
from tests.tiny import SENTENCES

PRESETS = {
    "paper/table-end-to-end": (14, 7),
    "paper/few-shot": (9, 4),
    "paper/type-knowledge": (4, 3),
    "paper/sequence-utilization": (3, 2),
    "paper/prompt-length": (4, 2),
    "paper/pt-v": (2, 3),
    "paper/topics-map": (0, 0),
    "paper/case-study": (3, 1),
}


@pytest.fixture
def spec(tickets: Path, tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """A small experiment with knowledge and a pre-trained prompt."""
    corpus = tmp_path / "text.txt"
    lines = [" ".join(SENTENCES[place : place + 5]) for place in range(len(SENTENCES) - 5)]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    return {
        "name": "small",
        "settings": {"model": str(tiny), "epochs": 1, "length": 4, "batch_size": 8, "dtype": "fp32"},
        "pretrain": {
            "topics": {"what": "knowledge", "corpus": "topics13", "epochs": 1, "encoder": ["mlp"]},
            "pairs": {"what": "prompt", "corpus": [str(corpus)], "pairs": 30, "held_out": 30},
        },
        "tasks": {"tickets": {"data": str(tickets), "text_column": "body", "label_column": "team"}},
        "methods": {
            "PPT": {"base": "prompt", "strategy": "shared", "start_from": "pairs"},
            "pretrained": {"base": "prompt", "strategy": "pretrained", "knowledge": "topics"},
            "encoder": {"base": "prompt", "strategy": "encoder", "encoder": "mlp", "knowledge": "topics"},
        },
    }


def write(spec: dict[str, Any], tmp_path: Path) -> Path:
    """Write the file of an experiment."""
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return tmp_path / "spec.yaml"


def test_there_is_a_preset_for_each_table_and_figure() -> None:
    """Eight presets, each with the methods and tasks that it should have, at either size."""
    assert set(preset_names()) == set(PRESETS)
    for name, (methods, tasks) in PRESETS.items():
        experiment = read_experiment(name)
        assert len({cell.method for cell in experiment.cells}) == methods
        assert len({cell.task for cell in experiment.cells}) == tasks
        assert {cell.settings["task"] for cell in experiment.cells} <= set(task_names())
        full = read_experiment(name, full=True)
        assert {cell.method for cell in full.cells} == {cell.method for cell in experiment.cells}
        assert {cell.settings["model"] for cell in full.cells} <= {"roberta-large"}
        assert {len(cell.seeds) for cell in full.cells} <= {1, 5}
        assert {cell.settings.get("train_rows") for cell in full.cells} <= {None}
        other = read_experiment(name, overrides={"model": "some/encoder"})
        assert {cell.settings["model"] for cell in other.cells} <= {"some/encoder"}
        assert {entry.settings["model"] for entry in other.pretrained.values()} <= {"some/encoder"}


def test_published_figures_belong_to_cells() -> None:
    """Every published figure has a method of the preset and a task of one of its sizes."""
    for name in PRESETS:
        sizes = [read_experiment(name), read_experiment(name, full=True)]
        known = {(cell.label, cell.task) for size in sizes for cell in size.cells}
        for method, figures in sizes[0].published.items():
            assert {(method, task) for task in figures} <= known


def test_the_search_of_the_end_to_end_table_is_the_same_for_every_method() -> None:
    """Each method has as many rates to try, on the same tasks."""
    experiment = read_experiment("paper/table-end-to-end")
    assert {len(cell.rates) for cell in experiment.cells} == {4}
    assert experiment.search_tasks == ("sst2_sentence",)
    seeds = {cell.task: len(cell.seeds) for cell in experiment.cells}
    assert seeds == {"boolq": 2, "cb": 5, "rte": 3, "multirc": 2, "sst2_sentence": 5, "ag_news": 3, "imdb": 2}


def test_runs_start_from_what_is_pretrained_first(spec: dict[str, Any], tmp_path: Path) -> None:
    """Knowledge and prompt are made once; the same command again changes nothing."""
    file, out = write(spec, tmp_path), tmp_path / "out"
    assert "pre-training topics (knowledge)" in ok("compare", file, "--out", out, "--dry-run").out.replace(
        "before the runs: ", ""
    )
    printed = ok("compare", file, "--out", out, "--threads", 1).out
    assert "pre-training topics (knowledge)" in printed
    assert "3 of 3 runs finished" in printed
    folders = {folder.name.partition("-")[0]: folder for folder in (out / "pretrained").iterdir()}
    assert set(folders) == {"topics", "pairs"}
    assert read_knowledge(folders["topics"]).networks.keys() == {"mlp"}
    records = [read_json(path) for path in (out / "records").iterdir()]
    assert {record["settings"].get("knowledge") for record in records} == {None, "topics"}
    before = contents(out)
    printed = ok("compare", file, "--out", out, "--threads", 1).out
    assert "pre-training" not in printed
    assert contents(out) == before


def ids(spec: dict[str, Any]) -> dict[str, str]:
    """The id of each method's run."""
    plan = Plan(experiment_from(spec, "here"), {})
    return {planned.cell.method: plan.run(planned).id for planned in plan.planned()}


def test_a_pretraining_that_fails_takes_its_own_runs_along(
    spec: dict[str, Any], headless_tiny: Path, tmp_path: Path
) -> None:
    """Pairs ask a cloze question, which a model without a head refuses; what needs no such prompt is done."""
    spec["settings"]["model"] = str(headless_tiny)
    del spec["methods"]["encoder"]
    file, out = write(spec, tmp_path), tmp_path / "out"
    printed = ok("compare", file, "--out", out, "--threads", 1).out
    assert "failed: pre-training pairs: " in printed
    assert "1 of 2 runs finished, 1 failed" in printed
    (failed,) = [record for record in map(read_json, (out / "records").iterdir()) if record["status"] == "failed"]
    assert failed["settings"]["start_from"] == "pairs"
    assert failed["error"].startswith("pairs, which it starts from, could not be pre-trained: The cloze head needs")
    assert "pre-training" not in ok("compare", file, "--out", out, "--threads", 1).out


def test_a_finished_pretraining_is_not_announced(spec: dict[str, Any], tmp_path: Path) -> None:
    """The plan of what is left names only what will be pre-trained, and says that the time leaves it out."""
    file, out = write(spec, tmp_path), tmp_path / "out"
    ok("compare", file, "--out", out, "--threads", 1)
    next(path for path in (out / "records").iterdir() if read_json(path)["settings"].get("knowledge")).unlink()
    planned = ok("compare", file, "--out", out, "--dry-run").out
    assert "before the runs" not in planned
    assert "pre-training" not in planned
    shutil.rmtree(out / "pretrained")
    planned = ok("compare", file, "--out", out, "--dry-run").out
    assert "before the runs: pre-training topics (knowledge)" in planned
    assert "and that of the pre-training" in planned


def test_a_kept_adapter_that_was_removed_is_made_again(spec: dict[str, Any], tmp_path: Path) -> None:
    """A record alone is no result where adapters are to be kept."""
    spec = {**spec, "keep_adapters": True, "pretrain": {}, "methods": {"m": {"base": "prompt", "strategy": "shared"}}}
    file, out = write(spec, tmp_path), tmp_path / "out"
    ok("compare", file, "--out", out, "--threads", 1)
    shutil.rmtree(out / "runs")
    assert "1 runs to do" in ok("compare", file, "--out", out, "--dry-run").out
    ok("compare", file, "--out", out, "--threads", 1)
    assert len(list((out / "runs").glob("*/adapter_model.safetensors"))) == 1


def test_another_pretraining_is_another_run(spec: dict[str, Any], tmp_path: Path) -> None:
    """The id of a run changes with what it starts from, and not with where the experiment is kept."""

    before = ids(spec)
    spec["pretrain"]["topics"]["epochs"] = 2
    after = ids(spec)
    assert {method for method in before if before[method] != after[method]} == {"pretrained", "encoder"}


def test_a_model_folder_is_known_by_what_it_holds(spec: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    """Ids of runs and of what they start from stay with a copy of the model, and change with another in its place."""
    before = ids(spec), Plan(experiment_from(spec, "x"), {}).pretraining()[0].id
    spec["settings"]["model"] = str(shutil.copytree(tiny, tmp_path / "copy"))
    assert (ids(spec), Plan(experiment_from(spec, "x"), {}).pretraining()[0].id) == before
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
    after = ids(spec), Plan(experiment_from(spec, "x"), {}).pretraining()[0].id
    assert all(after[0][method] != before[0][method] for method in before[0])
    assert after[1] != before[1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"figure": {"kind": "pie"}}, ["'pie'", "bars"]),
        ({"figure": {"kind": "lines", "x": "length"}}, ["'length'", "no key of grid"]),
        ({"figure": {"kind": "case study"}}, ["keep_adapters"]),
        ({"figure": {"kind": "topics map", "knowledge": "topic"}}, ["'topic'", "pretrain"]),
        ({"published": {"PTT": {"rte": 1.0}}}, ["'PTT'", "'PPT'"]),
        ({"methods": {"m": {"strategy": "pretrained", "knowledge": "topcs"}}}, ["'topcs'", "'topics'"]),
    ],
)
def test_what_would_fail_late_is_refused_early(
    spec: dict[str, Any], tmp_path: Path, change: dict[str, Any], says: list[str]
) -> None:
    """Figures, published figures and what runs start from are checked before anything runs."""
    fails(2, "compare", write({**spec, **change}, tmp_path), "--out", tmp_path / "out", says=says)
    fails(2, "compare", write(spec, tmp_path), "--full", says=["no full size"])
    assert not (tmp_path / "out").exists()


def test_a_report_shows_the_runs_of_its_experiment_alone(spec: dict[str, Any], tmp_path: Path) -> None:
    """After a change of settings in one folder, the report has the new runs and not the old ones."""
    spec = {**spec, "pretrain": {}, "methods": {"probe": {"strategy": "none"}}}
    out = tmp_path / "out"
    ok("compare", write(spec, tmp_path), "--out", out, "--threads", 1)
    spec["tasks"]["tickets"]["train_rows"] = 20
    ok("compare", write(spec, tmp_path), "--out", out, "--threads", 1)
    assert len(list((out / "records").iterdir())) == 2
    ok("report", out)
    assert "accuracy; 20 / " in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"what": "fun"}, ["pretrain topics", "'fun'", "knowledge or prompt"]),
        ({"epochz": 2}, ["pretrain topics", "'epochz'", "'epochs'"]),
        ({"encoder": []}, ["--encoder is missing"]),
    ],
)
def test_malformed_pretraining(spec: dict[str, Any], tmp_path: Path, change: dict[str, Any], says: list[str]) -> None:
    """The message names the entry and the word."""
    spec["pretrain"]["topics"] |= change
    fails(2, "compare", write(spec, tmp_path), "--out", tmp_path / "out", says=says)


def test_local_corpora_win(tmp_path: Path) -> None:
    """A corpus in the data folder is used, and ``otherwise`` where it is not there."""
    raw = {"name": "x", "figure": {"kind": "topics map", "knowledge": "t"}}
    entry = {"what": "knowledge", "corpus": "wiki_topic13", "otherwise": "topics13"}
    without = experiment_from({**raw, "pretrain": {"t": entry}}, "x", data_root=tmp_path)
    assert without.pretrained["t"].settings["corpus"] == "topics13"
    (tmp_path / "wiki_topic13").mkdir()
    with_it = experiment_from({**raw, "pretrain": {"t": entry}}, "x", data_root=tmp_path)
    assert with_it.pretrained["t"].settings["data_dir"] == str(tmp_path / "wiki_topic13")


def test_few_shot_files_of_the_data_folder(tmp_path: Path) -> None:
    """A task's files are looked for in the data folder; without them ``otherwise`` holds."""
    task = {"train_file": "few/train.jsonl", "validation_file": "few/dev.jsonl", "otherwise": {"shots": 16}}
    raw = {"name": "x", "tasks": {"rte": task}, "methods": {"m": {}}}
    (cell,) = experiment_from(raw, "x", data_root=tmp_path).cells
    assert cell.settings["shots"] == 16
    assert "train_file" not in cell.settings
    (tmp_path / "few").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "few" / f"{name}.jsonl").touch()
    (cell,) = experiment_from(raw, "x", data_root=tmp_path).cells
    assert cell.settings["train_file"] == str(tmp_path / "few" / "train.jsonl")
    assert "shots" not in cell.settings


def test_rates_are_chosen_on_the_tasks_that_are_named(
    tickets: Path, spec: dict[str, Any], tmp_path: Path, make_records: Callable[..., Any]
) -> None:
    """One task's search decides for both tasks, and the other one is never searched."""
    spec = {**spec, "pretrain": {}, "methods": {"probe": {"strategy": "none"}}}
    spec["tasks"]["more"] = dict(spec["tasks"]["tickets"], train_rows=20)
    spec["lr_search"] = {"values": [1e-6, 0.05], "tasks": ["tickets"]}
    records = make_records(spec)
    search = [record for record in records if record["purpose"] == "search"]
    assert {record["task"] for record in search} == {"tickets"}
    results = {record["task"]: record["lr"] for record in records if record["purpose"] == "result"}
    assert set(results) == {"tickets", "more"}
    assert len(set(results.values())) == 1


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_ids_know_what_files_hold_and_not_where_they_lie(tmp_path: Path) -> None:
    """A run and what it starts from keep their ids when the data moves, and get others when it changes."""

    def ids(root: Path) -> tuple[str, ...]:
        raw = {
            "name": "x",
            "pretrain": {
                "topics": {"what": "knowledge", "corpus": "wiki_topic13"},
                "pairs": {"what": "prompt", "corpus": ["text.txt"]},
            },
            "tasks": ["cb"],
            "methods": {"m": {"strategy": "pretrained", "knowledge": "topics"}},
        }
        experiment = experiment_from(raw, "x", data_root=root)
        run = Plan(experiment, {}).next_run([])
        assert run is not None
        return run.id, *(entry.id for entry in experiment.pretrained.values())

    here, there = tmp_path / "here", tmp_path / "there"
    topics = [{"text": f"Of matter {label}.", "label": label} for label in range(13)]
    cases = [{"premise": f"It rains on {day}.", "hypothesis": "It is wet.", "label": day % 3} for day in range(30)]
    for folder, rows in (("wiki_topic13", topics), ("cb", cases)):
        (here / folder).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            # What is held out of a corpus is in no other split.
            own = [{**row, "text": f"{split}: {row['text']}"} for row in rows] if folder == "wiki_topic13" else rows
            write_rows(here / folder / f"{split}.jsonl", own)
    (here / "text.txt").write_text("One line.\n", encoding="utf-8")
    shutil.copytree(here, there)
    before = ids(here)
    assert ids(there) == before
    (there / "text.txt").write_text("Another line.\n", encoding="utf-8")
    assert [old == new for old, new in zip(before, ids(there), strict=True)] == [True, True, False]
    topics[0]["text"] = "Of the sea."
    write_rows(there / "wiki_topic13" / "train.jsonl", topics)
    assert [old == new for old, new in zip(before, ids(there), strict=True)] == [False, False, False]


def test_the_usual_rate_has_the_id_of_that_rate(spec: dict[str, Any], tmp_path: Path) -> None:
    """Leaving the learning rate out or writing the usual one is the same run, and another rate is another run."""
    ids = []
    for more in ({}, {"lr": 3e-2}, {"threads": 1, "compile": False}, {"lr": 2e-2}, {"gradient_checkpointing": True}):
        methods = {"m": {"base": "prefix", "strategy": "shared", **more}}
        run = Plan(experiment_from({**spec, "pretrain": {}, "methods": methods}, "x"), {}).next_run([])
        assert run is not None
        assert run.config.lr is not None
        ids.append(run.id)
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 3


def test_a_stopped_experiment_goes_on_when_its_data_has_moved(
    spec: dict[str, Any], tickets: Path, tmp_path: Path
) -> None:
    """Nothing is pre-trained or trained again: folders of finished work are known by what the data's copies hold."""
    del spec["methods"]["encoder"]
    spec["keep_adapters"] = True
    spec["pretrain"]["topics"] |= {"corpus": str(write_topics(tmp_path))}
    out = tmp_path / "out"
    ok("compare", write(spec, tmp_path), "--out", out, "--threads", 1)
    made = {**contents(out / "pretrained"), **contents(out / "runs")}
    records = {file: read_json(file)["metrics"] for file in (out / "records").iterdir()}
    for file in records:
        file.unlink()
    again = tmp_path / "again"
    again.mkdir()
    for entry in (tickets, Path(spec["pretrain"]["pairs"]["corpus"][0]), *sorted(tmp_path.glob("topics*"))):
        shutil.copy(entry, again / entry.name)
    spec["tasks"]["tickets"]["data"] = str(again / tickets.name)
    spec["pretrain"]["pairs"]["corpus"] = [str(again / "text.txt")]
    spec["pretrain"]["topics"]["corpus"] = str(again / "topics.yaml")
    ok("compare", write(spec, tmp_path), "--out", out, "--threads", 1)
    assert {file: read_json(file)["metrics"] for file in (out / "records").iterdir()} == records
    after = {**contents(out / "pretrained"), **contents(out / "runs")}
    moved = {path for path in made if after[path] != made[path]}
    assert after.keys() == made.keys()
    assert {Path(path).name for path in moved} == {"train_config.json"}


def write_topics(folder: Path) -> Path:
    """A corpus of two topics in a file beside its description."""
    rows = [{"text": SENTENCES[place % len(SENTENCES)], "kind": ("film", "news")[place % 2]} for place in range(60)]
    write_rows(folder / "topics.jsonl", rows)
    description = {
        "name": "topics",
        "description": "Films and news",
        "topics": ["film", "news"],
        "sources": [{"file": "topics.jsonl", "text": "{text}", "label": "kind"}],
    }
    (folder / "topics.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder / "topics.yaml"


@pytest.fixture
def make_records(tmp_path: Path) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """Do an experiment and give its records."""

    def make(spec: dict[str, Any]) -> list[dict[str, Any]]:
        ok("compare", write(spec, tmp_path), "--out", tmp_path / "out", "--threads", 1)
        return [read_json(path) for path in (tmp_path / "out" / "records").iterdir()]

    return make


def test_a_search_on_an_unknown_task() -> None:
    """The message names the tasks that there are."""
    raw = {"name": "x", "tasks": ["rte"], "methods": {"m": {}}, "lr_search": {"values": [1.0], "tasks": ["cb"]}}
    with pytest.raises(ConfigError, match=r"'cb'.*rte"):
        experiment_from(raw, "x")


def test_a_case_study_marks_the_same_texts_for_every_method(spec: dict[str, Any], tmp_path: Path) -> None:
    """Cases are made from the kept adapters, and the report shows them."""
    del spec["methods"]["PPT"], spec["pretrain"]["pairs"]
    spec |= {"keep_adapters": True, "figure": {"kind": "case study", "examples": 2}}
    out = tmp_path / "out"
    ok("compare", write(spec, tmp_path), "--out", out, "--threads", 1)
    cases = read_json(out / "cases.json")["cases"]
    assert len(cases) == 2
    for case in cases:
        assert set(case["by"]) == {"pretrained", "encoder"}
        words = {tuple(said["words"]) for said in case["by"].values()}
        assert len(words) == 1
        assert "".join(next(iter(words))) == case["text"].replace(" ", "")
    ok("report", out)
    assert "## Cases" in (out / "report.md").read_text(encoding="utf-8")


def test_an_unknown_preset() -> None:
    """A near match is named."""
    fails(2, "compare", "paper/ptv", says=["paper/pt-v"])
