"""``promptwise compare``: a grid of runs, their records, and going on after any end."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from promptwise.backbones.loading import width_of
from promptwise.backbones.placement import prepare_backbone
from promptwise.config import TrainConfig, usual_training
from promptwise.experiments import status
from promptwise.experiments.compare import compare
from promptwise.experiments.folder import LOCK
from promptwise.experiments.plan import Plan
from promptwise.experiments.read import read_experiment
from promptwise.experiments.record import read_records
from promptwise.experiments.worker import perform
from promptwise.models.prompted import PromptedModel
from promptwise.runs import engines, workers
from promptwise.runs.cache import InputCache
from promptwise.runs.engines import EngineChoice
from promptwise.runs.processes import visible_devices
from promptwise.runs.remote_folder import RemoteFolder
from promptwise.runs.workers import Ended, LocalWorkers, Workers, outcome
from tests.integration.command import checkpoints, contents, fails, ok, promptwise, read_json

MakeSpec = Callable[..., Path]
STEPS_PER_EPOCH = 4
GRID = {"length": [2, 4]}
SAME = ("id", "status", "experiment", "task", "method", "purpose", "seed", "lr", "settings", "choices", "error", "code")
SAME_METRICS = ("test", "validation", "steps", "best_step", "parameters", "data", "backbone", "config")


def spec_file(folder: Path, tickets: Path, tiny: Path, **more: Any) -> Path:
    """Write the file of a small experiment; what is given wins."""
    values = {
        "name": "small",
        "settings": {"model": str(tiny), "epochs": 1, "length": 4, "batch_size": 8, "dtype": "fp32"},
        "tasks": {"tickets": {"data": str(tickets), "text_column": "body", "label_column": "team"}},
        "methods": {
            "prompt tuning": {"base": "prompt", "strategy": "shared"},
            "probe": {"strategy": "none"},
        },
        "seeds": [0, 1],
        **more,
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture
def make_spec(tickets: Path, tiny: Path, tmp_path: Path) -> MakeSpec:
    """Write the file of a small experiment; what is given wins."""

    def make(**more: Any) -> Path:
        return spec_file(tmp_path, tickets, tiny, **more)

    return make


@pytest.fixture(scope="module")
def finished_grid(tickets: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished experiment with ``GRID``, and what its command printed; tests only read it."""
    folder = tmp_path_factory.mktemp("grid")
    file = spec_file(folder, tickets, tiny, grid=GRID)
    return folder / "out", ok("compare", file, "--out", folder / "out", "--threads", 1).out


@pytest.fixture
def grid_copy(finished_grid: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of that folder that a test may change."""
    return Path(shutil.copytree(finished_grid[0], tmp_path / "grid"))


def remove_records(out: Path, **of: Any) -> None:
    """Remove the records with these values, as if those runs had never been."""
    for key, record in records_of(out).items():
        if all(record[name] == value for name, value in of.items()):
            (out / "records" / f"{key}.json").unlink()


@pytest.fixture
def make_long(make_spec: MakeSpec) -> Callable[[], Path]:
    """Write the file of an experiment whose runs take minutes."""

    def make() -> Path:
        settings = yaml.safe_load(make_spec().read_text(encoding="utf-8"))["settings"]
        return make_spec(settings={**settings, "epochs": 10**6}, seeds=[0])

    return make


def records_of(out: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder as they are in the files."""
    return {file.stem: read_json(file) for file in (out / "records").glob("*.json")}


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how often a run was stopped."""
    return {**{key: record[key] for key in SAME}, **{key: record["metrics"].get(key) for key in SAME_METRICS}}


def test_a_grid_leaves_a_record_for_each_run_and_is_done_once(
    finished_grid: tuple[Path, str], grid_copy: Path, make_spec: MakeSpec
) -> None:
    """Methods x grid x seeds runs leave as many records; the same command again changes no file."""
    _, printed = finished_grid
    records = records_of(grid_copy)
    assert len(records) == 2 * 2 * 2
    assert {record["status"] for record in records.values()} == {"finished"}
    assert {record["method"] for record in records.values()} == {
        f"{method}, length {length}" for method in ("prompt tuning", "probe") for length in (2, 4)
    }
    for record in records.values():
        assert len(record["choices"]) == record["metrics"]["data"]["rows"]["test"]
        assert record["metrics"]["versions"]["torch"]
        usual = 0.03 if record["method"].startswith("prompt tuning") else 0.01
        assert record["metrics"]["config"]["lr"] == record["lr"] == usual
    assert printed.count("finished: tickets") == 8
    assert "8 of 8 runs finished" in printed
    assert not list((grid_copy / "runs").iterdir())
    before = contents(grid_copy)
    assert "8 of 8 runs finished" in ok("compare", make_spec(grid=GRID), "--out", grid_copy).out
    assert contents(grid_copy) == before


def test_the_report_is_written_at_the_end(
    grid_copy: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command of the experiment itself; without matplotlib the tables are there, and the way to the figure."""
    file = make_spec(grid=GRID, figure={"kind": "lines", "x": "length"})
    (grid_copy / "report.md").unlink()
    printed = ok("compare", file, "--out", grid_copy, "--threads", 1).out
    assert "The report is" in printed
    assert {"report.md", "report.tex", "report.html", "figure.svg", "figure.pdf"} <= set(os.listdir(grid_copy))
    (grid_copy / "report.md").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install" in ok("compare", file, "--out", grid_copy, "--threads", 1).err
    assert (grid_copy / "report.md").is_file()


def test_the_learning_rate_is_chosen_on_validation_data(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Search runs never see the test split, and results use the rate with the best validation score."""
    file = make_spec(
        methods={
            "searched": {"strategy": "none"},
            "fixed": {"strategy": "none", "lr": 0.02, "lr_search": []},
        },
        lr_search={"values": [1e-6, 0.05], "seeds": [0]},
    )
    out = tmp_path / "out"
    ok("compare", file, "--out", out, "--threads", 1)
    records = list(records_of(out).values())
    search = [record for record in records if record["purpose"] == "search"]
    assert sorted(record["lr"] for record in search) == [1e-6, 0.05]
    assert all(record["metrics"]["test"] == {} and record["choices"] == "" for record in search)
    best = max(search, key=lambda record: (record["metrics"]["validation"]["accuracy"], -record["lr"]))["lr"]
    results = {(record["method"], record["lr"]) for record in records if record["purpose"] == "result"}
    assert results == {("searched", best), ("fixed", 0.02)}


def test_the_rate_with_the_least_error_is_chosen(make_spec: MakeSpec) -> None:
    """Where less is better, that is the best."""
    errors = {1e-3: 1.9, 1e-2: 0.5, 1e-1: 7.3}
    file = make_spec(methods={"probe": {"strategy": "none"}}, lr_search={"values": list(errors)}, seeds=[0])
    plan = Plan(read_experiment(file), {})
    for planned in list(plan.planned()):
        metrics = {"validation": {"mae": errors[planned.lr or 0.0]}, "time": {"total_s": 1.0, "resumed": False}}
        plan.add(plan.run(planned).record("finished", metrics=metrics))
    assert plan.best_rate(plan.experiment.cells[0]) == 1e-2


def test_states_that_are_not_kept_make_another_run(make_spec: MakeSpec) -> None:
    """Those that are kept are rounded, wherever they are kept, so such runs share no record with the others."""
    settings = yaml.safe_load(make_spec().read_text(encoding="utf-8"))["settings"]

    def run(**more: Any) -> str:
        prefix = {"base": "prefix", "strategy": "shared"}
        file = make_spec(settings={**settings, "from_layer": 1, **more}, methods={"prefix tuning": prefix}, seeds=[0])
        plan = Plan(read_experiment(file), {})
        return plan.run(next(plan.planned())).id

    assert run() == run(states_cache="kept") != run(states_cache="none")


def test_a_failed_run_is_recorded_and_the_others_go_on(make_spec: MakeSpec, tmp_path: Path, tiny: Path) -> None:
    """A method that cannot work leaves its message; it is done again only when that is asked for."""
    file = make_spec(methods={"broken": {"base": "prompt", "length": 64}, "probe": {"strategy": "none"}}, seeds=[0])
    out = tmp_path / "out"
    printed = ok("compare", file, "--out", out, "--threads", 1).out
    assert "1 failed" in printed
    by_method = {record["method"]: record for record in records_of(out).values()}
    assert by_method["probe"]["status"] == "finished"
    assert by_method["broken"]["status"] == "failed"
    assert "--length" in by_method["broken"]["error"]
    assert "--length" in printed
    before = contents(out / "records")
    ok("compare", file, "--out", out, "--threads", 1)
    assert contents(out / "records") == before
    assert "failed: tickets, broken" in ok("compare", file, "--out", out, "--threads", 1, "--retry-failed").out


def test_a_search_of_which_every_rate_failed_ends(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Its results can never be run, so nothing remains and nothing is missing; a new try opens all of it again."""
    file = make_spec(
        methods={"probe": {"strategy": "none"}, "fixed": {"strategy": "none", "lr": 0.02, "max_length": 64}},
        lr_search={"values": [0.001, 0.01], "seeds": [0]},
        seeds=[0, 1],
    )
    experiment = read_experiment(file)
    plan = Plan(experiment, {})
    assert len(plan.remaining()) == 2 + 2 + 2
    while (run := plan.next_run([])) is not None:
        plan.add(run.record("failed", error="no memory"))
    assert plan.remaining() == []
    assert plan.counts() == {"finished": 0, "failed": 4, "cancelled": 0, "missing": 0}
    assert [cell.method for cell in plan.without_rate()] == ["probe"]
    again = Plan(experiment, plan.records, retry_failed=True)
    assert len(again.remaining()) == 2 + 2 + 2
    assert again.without_rate() == []
    for record in plan.records.values():
        record.write(tmp_path / "out" / "records")
    printed = ok("compare", file, "--out", tmp_path / "out", "--dry-run").out
    assert "no results: tickets, probe: every learning rate" in " ".join(printed.split())
    assert "0 runs to do" in printed


def test_a_dry_run_after_a_search_that_failed_for_every_task(
    make_spec: MakeSpec, tickets: Path, tmp_path: Path
) -> None:
    """A task whose rate is searched for on another one has no run at all then, and still has its row."""
    data = {"data": str(tickets), "text_column": "body", "label_column": "team"}
    file = make_spec(
        tasks={"searched": data, "follows": {**data, "train_rows": 40}},
        methods={"probe": {"strategy": "none"}},
        lr_search={"values": [0.01], "seeds": [0], "tasks": ["searched"]},
    )
    plan = Plan(read_experiment(file), {})
    run = plan.next_run([])
    assert run is not None
    run.record("failed", error="no memory").write(tmp_path / "out" / "records")
    printed = ok("compare", file, "--out", tmp_path / "out", "--dry-run").out
    assert re.search(r"follows +probe", printed)
    assert "0 runs to do" in printed


def test_runs_on_one_backbone_follow_each_other(make_spec: MakeSpec) -> None:
    """Within a seed the backbone changes as often as there are heads, however the grid alternates them."""
    file = make_spec(grid={"head": ["classifier", "cloze"]}, lr_search={"values": [0.001, 0.01], "seeds": [0]})
    experiment = read_experiment(file)
    searches = [planned.cell.settings["head"] for planned in Plan(experiment, {}).planned()]
    assert searches == ["classifier"] * 4 + ["cloze"] * 4
    plan = Plan(read_experiment(make_spec(grid={"head": ["classifier", "cloze"]})), {})
    assert [(planned.seed, planned.cell.settings["head"]) for planned in plan.planned()] == [
        (seed, head) for seed in (0, 1) for head in ("classifier", "cloze") for _ in range(2)
    ]
    # The report keeps the order of the file.
    assert [cell["method"] for cell in plan.layout()["cells"]] == [cell.label for cell in plan.experiment.cells]


@pytest.mark.parametrize(
    ("limited", "count", "found"),
    [
        ("", 0, [None, None, None]),
        ("", 2, ["0", "1", "0"]),
        ("5, 2", 2, ["5", "2", "5"]),
        ("GPU-a1,GPU-b2,GPU-gone", 2, ["GPU-a1", "GPU-b2", "GPU-a1"]),
    ],
)
def test_each_worker_has_a_device(limited: str, count: int, found: list[str | None]) -> None:
    """Worker i gets device i, counted anew after the last one, out of those that the person allows."""
    environment = {"CUDA_VISIBLE_DEVICES": limited} if limited else {}
    assert [visible_devices(number, count, environment) for number in range(3)] == found


@pytest.fixture
def given_devices(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The devices that processes were given on a machine of two, where none really starts."""
    given: list[str | None] = []

    class Process:
        """Starts nothing, and says which devices it was given."""

        def __init__(self, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
            given.append(args[-1])

        def start(self) -> None:
            """Nothing starts."""

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for module in (workers, engines):
        monkeypatch.setattr(module, "device_count", lambda: 2)
    monkeypatch.setattr(workers._SPAWN, "Process", Process)
    return given


def test_workers_are_spread_over_the_devices(given_devices: list[str | None]) -> None:
    """Side by side they get a device each; the successor of one that died gets the device that became free."""
    two = EngineChoice(jobs=2).workers()
    assert isinstance(two, LocalWorkers)
    two.start("first", perform)
    two.start("second", perform)
    del two._processes[0]
    two.start("third", perform)
    assert given_devices == ["0", "1", "0"]


@pytest.mark.parametrize(
    ("choice", "devices"),
    [
        (EngineChoice(), ["0", "1"]),
        (EngineChoice(gpus_per_run=0.5), ["0", "1", "0", "1"]),
        (EngineChoice(gpus_per_run=0.5, jobs=3), ["0", "1", "0"]),
        (EngineChoice(gpus_per_run=0), [""]),
    ],
    ids=["default", "packed", "fewer jobs", "none"],
)
def test_every_device_has_a_worker_by_default(
    given_devices: list[str | None], choice: EngineChoice, devices: list[str]
) -> None:
    """As many jobs as the devices have room for; a run that shall have none sees none."""
    local = choice.workers()
    assert local.jobs == len(devices)
    for number in range(local.jobs):
        local.start(str(number), perform)
    assert given_devices == devices


def test_an_engine_that_cannot_work_is_refused(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the flag and the way out, and nothing is written."""
    monkeypatch.setattr(engines, "device_count", lambda: 0)
    command = ("compare", make_spec(), "--out", tmp_path / "out")
    fails(2, *command, "--engine", "rey", says=["--engine", "'rey'", "ray"])
    fails(2, *command, "--address", "head:6379", says=["--address", "--engine ray"])
    fails(2, *command, "--gpus-per-run", 2, says=["--gpus-per-run is 2", "0 to 1"])
    fails(2, *command, "--gpus-per-run", 0.5, says=["--gpus-per-run 0.5", "none on this machine", "Leave it out"])
    monkeypatch.setitem(sys.modules, "ray", None)
    fails(2, *command, "--engine", "ray", says=["promptwise[ray]"])
    assert not (tmp_path / "out").exists()


def test_two_jobs_give_the_same_records(finished_grid: tuple[Path, str], make_spec: MakeSpec, tmp_path: Path) -> None:
    """Side by side or one after the other, records are the same."""
    ok("compare", make_spec(grid=GRID), "--out", tmp_path / "two", "--jobs", 2, "--threads", 1)
    one, two = records_of(finished_grid[0]), records_of(tmp_path / "two")
    assert {key: without_time(value) for key, value in one.items()} == {
        key: without_time(value) for key, value in two.items()
    }


class Here(Workers):
    """Does work at once in this process, which alone sees what fsspec keeps in memory."""

    def check(self, folder: Path | str, places: Sequence[str] = ()) -> None:
        """It sees what it sees."""

    def start(self, key: str, work: Any, *arguments: Any) -> None:
        """See ``Workers.start``."""
        self.done = [Ended(key, *outcome(work, InputCache(), *arguments))]

    def ended(self, timeout: float) -> list[Ended]:
        """See ``Workers.ended``."""
        return self.done

    def stop(self) -> None:
        """Nothing is under way."""


def test_a_url_holds_what_a_folder_holds(
    finished_grid: tuple[Path, str], make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records are those of runs in a folder; another machine finds them there, and nothing to do."""
    monkeypatch.setattr(EngineChoice, "workers", lambda choice: Here(1, 1))
    url = f"memory://{tmp_path.name}"
    file = make_spec(methods={"prompt tuning": {"base": "prompt", "strategy": "shared"}}, seeds=[0])
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        monkeypatch.chdir(tmp_path / machine)
        assert "1 runs to do" in ok("compare", file, "--out", url, "--dry-run").out or machine == "two"
        assert "1 of 1 runs finished" in ok("compare", file, "--out", url).out
    remote = RemoteFolder(url)
    remote.pull("", tmp_path / "there")
    copy = contents(tmp_path / "two" / "runs" / "small")
    del copy[LOCK]
    assert contents(tmp_path / "there") == copy
    assert {"report.md", "experiment.json", "records"} <= set(os.listdir(tmp_path / "there"))
    (key, record), *others = records_of(tmp_path / "there").items()
    assert not others
    alike = [one for one in records_of(finished_grid[0]).values() if one["id"] == key]
    assert [without_time(one)["test"] for one in alike] == [without_time(record)["test"]]
    assert alike[0]["choices"] == record["choices"]
    assert not list(remote.scratch.glob("runs/*"))


def test_a_worker_that_dies_after_its_record_leaves_a_finished_run(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is whole, and is not written over as failed."""

    class Dying(Here):
        def ended(self, timeout: float) -> list[Ended]:
            return [Ended(one.key, died="signal 9") for one in self.done]

    monkeypatch.setattr(EngineChoice, "workers", lambda choice: Dying(1, 1))
    file = make_spec(methods={"prompt tuning": {"base": "prompt", "strategy": "shared"}}, seeds=[0])
    assert "1 of 1 runs finished" in ok("compare", file, "--out", tmp_path / "out").out
    (record,) = records_of(tmp_path / "out").values()
    assert record["status"] == "finished"


def test_ctrl_c_leaves_what_a_run_has_finished_at_a_url(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that wrote its record there just before is not written over as cancelled: its checkpoints are gone."""

    class Interrupted(Here):
        def ended(self, timeout: float) -> list[Ended]:
            raise KeyboardInterrupt

    monkeypatch.setattr(EngineChoice, "workers", lambda choice: Interrupted(1, 1))
    monkeypatch.chdir(tmp_path)
    url = f"memory://{tmp_path.name}"
    file = make_spec(methods={"prompt tuning": {"base": "prompt", "strategy": "shared"}}, seeds=[0])
    with pytest.raises(KeyboardInterrupt):
        compare(file, url)
    RemoteFolder(url).pull("", tmp_path / "there")
    for folder in (tmp_path / "there", tmp_path / "runs" / "small"):
        assert [record["status"] for record in records_of(folder).values()] == ["finished"]


def test_a_report_before_the_end_has_what_a_search_named(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is killed after its first result has written which runs the chosen rate made."""
    seen: list[bytes] = []

    class Watched(Here):
        def start(self, key: str, work: Any, *arguments: Any) -> None:
            seen.append((tmp_path / "out" / "experiment.json").read_bytes())
            super().start(key, work, *arguments)

    monkeypatch.setattr(EngineChoice, "workers", lambda choice: Watched(1, 1))
    file = make_spec(methods={"probe": {"strategy": "none"}}, lr_search={"values": [0.01, 0.05]}, seeds=[0, 1])
    compare(file, tmp_path / "out")
    runs = [json.loads(layout)["cells"][0]["runs"] for layout in seen]
    assert [len(named) for named in runs] == [0, 0, 2, 2]


def test_runs_share_what_is_tokenised(tickets: Path, tiny: Path) -> None:
    """Texts are tokenised once for each way of asking, however often a backbone is loaded or tuned."""
    cache = InputCache()
    config = TrainConfig(model=str(tiny), data=str(tickets), text_column="body", label_column="team", dtype="fp32")
    data = cache.data(config)
    found: dict[str, set[int]] = {"classifier": set(), "cloze": set(), "tuned": set()}
    for kind in ("classifier", "cloze", "tuned", "classifier", "cloze", "tuned"):
        head = "cloze" if kind == "cloze" else "classifier"
        one = replace(
            config, head=head, strategy="none" if kind == "tuned" else "shared", tune_backbone=kind == "tuned"
        )
        backbone = cache.backbone(one) or prepare_backbone(one.model, head == "cloze", "fp32", trainable=True)
        model = PromptedModel(backbone, data.spec, one.prompt_config(), 0)
        model.shared_features = cache.features
        found[kind].add(id(model.features(data.train)))
    assert [len(ids) for ids in found.values()] == [1, 1, 1]
    assert found["classifier"] == found["tuned"] != found["cloze"]


def test_the_usual_rate_of_a_wide_model_is_that_of_train(
    make_spec: MakeSpec, tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment writes it out before the model is loaded, and means what ``train`` does with the model."""
    monkeypatch.setattr(usual_training, "WIDTH", width_of(str(tiny)) // 2)
    experiment = read_experiment(make_spec(methods={"ours": {"strategy": "token-bias"}}, seeds=[0]))
    plan = Plan(experiment, {})
    (run,) = [plan.run(planned) for planned in plan.planned()]
    assert run.config.lr == usual_training.FOUND["hidden", "token-bias"] / 2
    columns = ("--text-column", "body", "--label-column", "team")
    ok("train", "--data", tickets, *columns, "--model", tiny, "--out", tmp_path / "run", "--epochs", 1, "--threads", 1)
    assert read_json(tmp_path / "run" / "metrics.json")["config"]["lr"] == run.config.lr
    assert width_of("minilm-cloze") == 384
    assert width_of(str(tmp_path / "nowhere")) is None


def test_ranks_of_lora_are_a_grid_that_says_nothing_to_other_methods(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Each rank is a run of its own size; the probe beside it takes no rank, on a backbone without updates."""
    methods = {"LoRA": {"strategy": "none", "tune": "lora"}, "probe": {"strategy": "none"}}
    settings = yaml.safe_load(make_spec().read_text(encoding="utf-8"))["settings"]
    settings.pop("length", None)
    file = make_spec(seeds=[0], methods=methods, grid={"lora_rank": [1, 2]}, settings=settings)
    ok("compare", file, "--out", tmp_path / "out", "--threads", 1)
    records = list(records_of(tmp_path / "out").values())
    assert {record["status"] for record in records} == {"finished"}
    tuned: dict[str, list[int]] = {"lora": [], "none": []}
    for record in records:
        tuned[record["settings"]["tune"]].append(record["metrics"]["parameters"]["tuned"])
    (head,) = set(tuned["none"])
    one, two = sorted(tuned["lora"])
    assert two - head == 2 * (one - head) > 0
    assert len({record["metrics"]["parameters"]["backbone"] for record in records}) == 1


def test_the_display_shows_the_end_and_what_failed(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the last frame has every run and the best of each task, and failed runs say why above it."""
    right = {"base": "prompt", "strategy": "shared"}
    spec = make_spec(seeds=[0], methods={"prompt tuning": right, "wrong": {**right, "length": 64}})
    screen = io.StringIO()
    monkeypatch.setattr(status, "console", Console(file=screen, force_terminal=True, width=100))
    compare(spec, tmp_path / "out", threads=1)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "failed: tickets, wrong, seed 0" in said
    last = said[said.rindex("small: ") :]
    assert "1 of 2 runs finished, 1 failed" in last
    assert re.search(r"tickets +prompt tuning +0\.\d{4} +1", last)


def test_a_dry_run_does_nothing(grid_copy: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    """The plan names each cell, and an estimate once a run like it has finished."""
    file, out = make_spec(grid=GRID), tmp_path / "out"
    printed = ok("compare", file, "--out", out, "--dry-run").out
    assert "8 runs to do; time: unknown" in printed
    assert not out.exists()
    remove_records(grid_copy, seed=1)
    before = contents(grid_copy)
    printed = ok("compare", file, "--out", grid_copy, "--dry-run").out
    assert "4 runs to do; time: about" in printed
    assert contents(grid_copy) == before


def start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start the real command in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "promptwise", "compare", str(file), "--out", str(out), "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
        # Whoever runs the tests in the background of a shell ignores Ctrl-C, which a child would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_until(happened: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Wait until something has happened; it is an error if the process ends before that."""
    # Ten minutes are for a process that hangs: nothing here depends on how fast the machine is.
    deadline = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, f"the experiment had ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_a_run(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait until a run of an experiment is under way."""
    wait_until(lambda: list(out.glob("runs/*/train_config.json")), process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill an experiment that is under way."""
    process.kill()
    assert process.wait(600) == -signal.SIGKILL


def epochs_done(out: Path) -> int:
    """How many epochs the runs of an experiment have behind them, those that are finished included."""
    records = records_of(out).values()
    done = sum(record["metrics"]["config"]["epochs"] for record in records if record["status"] == "finished")
    for run in out.glob("runs/*"):
        if run.name not in records_of(out):
            done += max((step // STEPS_PER_EPOCH for step in checkpoints(run)), default=0)
    return int(done)


def check_equal_after_kills(file: Path, tmp_path: Path, kills: int, epochs: int) -> None:
    """SIGKILL at random moments loses no finished run, and the end is that of an undisturbed experiment.

    The first kill comes when the first run is under way. The others come after a random number of epochs, up to
    ``epochs``, in which something new was done, or before anything was.
    """
    out, moments = tmp_path / "killed", random.Random(0)
    process = start(file, out)
    wait_for_a_run(process, out)
    kill(process)
    finished: dict[str, Any] = {}
    for _ in range(1, kills):
        goal = epochs_done(out) + moments.randint(0, epochs)
        process = start(file, out)
        wait_until(lambda goal=goal: epochs_done(out) >= goal, process)
        kill(process)
        now = {key: record for key, record in records_of(out).items() if record["status"] == "finished"}
        assert {key: now.get(key) for key in finished} == finished
        finished = now
    assert finished
    ok("compare", file, "--out", out, "--threads", 1)
    ok("compare", file, "--out", tmp_path / "undisturbed", "--threads", 1)
    one, two = records_of(tmp_path / "undisturbed"), records_of(out)
    assert {key: without_time(value) for key, value in one.items()} == {
        key: without_time(value) for key, value in two.items()
    }


def long_runs(make_spec: MakeSpec, epochs: int, **more: Any) -> Path:
    """The file of an experiment whose runs take long enough to be killed between two checkpoints."""
    settings = yaml.safe_load(make_spec().read_text(encoding="utf-8"))["settings"]
    return make_spec(settings={**settings, "epochs": epochs}, **more)


def test_sigkill_loses_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Three kills of a small experiment."""
    check_equal_after_kills(long_runs(make_spec, 20, seeds=[0, 1]), tmp_path, 3, epochs=30)


@pytest.mark.slow
def test_sigkill_at_many_moments_loses_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Kills of an experiment with a search, as many as ``PROMPTWISE_COMPARE_KILLS`` says; see ``tests/slow``."""
    more = {"lr_search": {"values": [0.001, 0.01, 0.05]}, "seeds": [0, 1, 2, 3, 4, 5], "grid": {"length": [2, 4]}}
    kills = int(os.environ.get("PROMPTWISE_COMPARE_KILLS", "40"))
    check_equal_after_kills(long_runs(make_spec, 100, **more), tmp_path, kills, epochs=75)


def test_a_half_finished_run_that_cannot_go_on_begins_again(grid_copy: Path, make_spec: MakeSpec) -> None:
    """What is left of a run on other weights, or of another version, does not stand in the way."""
    before = records_of(grid_copy)
    for key, record in before.items():
        if record["seed"] == 0:
            folder = grid_copy / "runs" / key
            folder.mkdir(parents=True)
            settings = {**record["settings"], "out": str(folder), "stands_on": {"backbone": "of old"}}
            (folder / "train_config.json").write_text(json.dumps(settings), encoding="utf-8")
    remove_records(grid_copy, seed=0)
    assert len(records_of(grid_copy)) == 4
    ok("compare", make_spec(grid=GRID), "--out", grid_copy, "--threads", 1)
    after = records_of(grid_copy)
    assert {key: without_time(one) for key, one in after.items()} == {
        key: without_time(one) for key, one in before.items()
    }


def test_ctrl_c_cancels_and_the_same_command_goes_on(make_long: Callable[[], Path], tmp_path: Path) -> None:
    """What was under way is recorded as cancelled, and counts as still to do."""
    file, out = make_long(), tmp_path / "out"
    process = start(file, out)
    wait_for_a_run(process, out)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(600) == 130
    assert [record["status"] for record in records_of(out).values()] == ["cancelled"]
    plan = Plan(read_experiment(file), read_records(out / "records"))
    assert plan.counts() == {"finished": 0, "failed": 0, "cancelled": 1, "missing": 1}
    assert len(plan.remaining()) == 2


def test_one_at_work_in_a_folder_and_nothing_left_of_a_killed_one(
    make_long: Callable[[], Path], make_spec: MakeSpec, tmp_path: Path
) -> None:
    """A second engine is told of the first; when that is killed the folder is free again and its worker is gone."""
    file, out = make_long(), tmp_path / "out"
    process = start(file, out)
    wait_for_a_run(process, out)
    before = contents(out / "records"), (out / "experiment.json").read_bytes()
    other = make_spec(name="other")
    fails(1, "compare", other, "--out", out, says=["Another", "at work", "--out"])
    assert (contents(out / "records"), (out / "experiment.json").read_bytes()) == before
    kill(process)
    with FileLock(out / LOCK, timeout=600):
        pass
    # Workers end with the engine, so that nothing writes beside its successor.
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a worker outlived its engine")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": {"a": {"strateggy": "shared"}}}, ["method a", "'strateggy'", "'strategy'"]),
        ({"methods": {"a": {"strategy": "shred"}}}, ["shred", "shared"]),
        ({"seeds": []}, ["seeds", "at least one"]),
        ({"tasks": {}}, ["tasks is missing"]),
        ({"grid": {"lenght": [1]}}, ["grid", "'lenght'", "'length'"]),
        ({"sedes": [1]}, ["'sedes'", "'seeds'"]),
        ({"settings": {"seed": 3}}, ["settings", "'seed'"]),
        ({"lr_search": {"rates": [1]}}, ["lr_search", "'rates'"]),
        ({"seeds": [0, 0]}, ["seeds", "[0, 0]", "twice"]),
        ({"lr_search": {"values": [0.1], "seeds": [1, 1]}}, ["lr_search: seeds", "twice"]),
        (
            {"grid": {"head": ["classifier"]}, "figure": {"kind": "lines", "x": "head"}},
            ["figure", "'classifier'", "bars"],
        ),
    ],
)
def test_a_malformed_experiment_is_refused_before_anything_runs(
    make_spec: MakeSpec, tmp_path: Path, change: dict[str, Any], says: list[str]
) -> None:
    """The message names the place and the word; nothing is written."""
    fails(2, "compare", make_spec(**change), "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_there_twice_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    """YAML would take the last of two methods of one name."""
    file = make_spec()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("  probe:", "  prompt tuning:"), encoding="utf-8")
    fails(2, "compare", file, "--out", tmp_path / "out", says=["'prompt tuning' is there twice", "line"])


def test_a_foreign_file_among_the_records(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A file that is no record is named rather than passed over."""
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "notes.json").write_text("[]")
    result = promptwise("compare", make_spec(), "--out", tmp_path / "out")
    assert result.code == 1
    assert "notes.json is no record" in result.error
