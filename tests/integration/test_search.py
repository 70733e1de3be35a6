"""``promptwise search``: a study that processes share, stop and go on with, and the run that it ends in."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from safetensors.torch import load_file, save_file

from promptwise.models.text_model import TextModel
from promptwise.runs import train as training
from promptwise.tasks.data import task_from_file
from tests.integration.command import fails, ok, promptwise, read_json, ticket_rows, train_flags, write_csv
from tests.integration.killing import run_interrupted, run_until, waiting_at
from tests.integration.test_compare import spec_file

SPACE = ("--space", "lr=loguniform:1e-3:1e-1", "--space", "length=2,4", "--space", "strategy=shared,random")
STEPS_PER_EPOCH = 4
EPOCHS = 2
"""One bracket of Hyperband, so that what is stopped early does not depend on a trial's number."""


def search_flags(tickets: Path, tiny: Path, out: Path, *more: object) -> list[str]:
    """The flags of a small search."""
    flags = train_flags(tickets, tiny, out, "--epochs", EPOCHS)
    for searched in ("--length", "--strategy"):
        del flags[flags.index(searched) : flags.index(searched) + 2]
    return [str(flag) for flag in ("search", *flags[1:], *SPACE, "--trials", 3, *more)]


def trials_of(folder: Path) -> list[Any]:
    """The trials of a study as Optuna itself reads them."""
    found: list[Any] = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}").trials
    return found


def told(trial: Any) -> tuple[Any, ...]:
    """What must not depend on how often a study was stopped."""
    return trial.state.name, trial.params, trial.intermediate_values, trial.value


@pytest.fixture(scope="module")
def study(tickets: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished study and what its command printed; tests only read it."""
    folder = tmp_path_factory.mktemp("search") / "study"
    return folder, ok(*search_flags(tickets, tiny, folder)).out


def test_a_study_leaves_what_it_found(study: tuple[Path, str]) -> None:
    """The best trial is the one of the file, the tables have every trial, and the figure stands alone."""
    folder, printed = study
    found = trials_of(folder)
    assert [trial.number for trial in found] == [0, 1, 2]
    assert len({str(trial.params) for trial in found}) == 3
    finished = [trial for trial in found if trial.state.name == "COMPLETE"]
    best = max(finished, key=lambda trial: (trial.value, -trial.number))
    settings = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    assert settings["lr"] == best.params["lr"]
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == [trial.params["lr"] for trial in found]
    assert [float(row["accuracy"]) for row in rows] == [trial.value for trial in found]
    with (folder / "importances.csv").open(encoding="utf-8") as file:
        shares = {row["setting"]: float(row["importance"]) for row in csv.DictReader(file)}
    assert set(shares) == {"lr", "length", "strategy"}
    assert sum(shares.values()) == pytest.approx(1)
    picture = (folder / "search.svg").read_text(encoding="utf-8")
    assert picture.startswith("<?xml")
    assert "best so far" in picture
    assert 'href="http' not in picture
    assert f"trial {best.number}, accuracy {best.value:.4f}" in printed
    assert not (folder / "trials").exists()


def test_the_file_gives_the_score_of_the_best_trial(study: tuple[Path, str], tmp_path: Path) -> None:
    """``train --config`` with the file reproduces the validation score to the last digit, as the chosen run did."""
    folder, _ = study
    ok("train", "--config", folder / "best.yaml", "--out", tmp_path / "run")
    (chosen,) = folder.glob("run-*")
    best = trials_of(folder)[int(chosen.name.partition("-")[2])]
    for run in (tmp_path / "run", chosen):
        assert read_json(run / "metrics.json")["validation"]["accuracy"] == best.value
    assert read_json(tmp_path / "run" / "metrics.json")["test"] == read_json(chosen / "metrics.json")["test"]


def test_the_test_split_is_scored_once_and_last(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trial looks at it; the chosen run does when all have ended, and the same command again does not."""
    looks = []
    test = task_from_file(tickets, text_column="body", label_column="team").test
    features = TextModel.features

    def counted(model: TextModel, examples: Any) -> Any:
        if list(examples) == list(test):
            looks.append([trial.state.is_finished() for trial in trials_of(tmp_path / "study")])
        return features(model, examples)

    monkeypatch.setattr(TextModel, "features", counted)
    flags = search_flags(tickets, tiny, tmp_path / "study", "--trials", 2)
    first = ok(*flags).out
    assert looks == [[True, True]]
    again = ok(*flags).out
    assert looks == [[True, True]]
    assert [line for line in first.splitlines() if not line.startswith("trial ")] == again.splitlines()


@pytest.mark.parametrize(("number", "epoch"), [(1, 0), (0, 1)])
def test_a_killed_search_ends_as_an_undisturbed_one(
    study: tuple[Path, str], tickets: Path, tiny: Path, tmp_path: Path, number: int, epoch: int
) -> None:
    """Killed in a trial and begun again, a search has the same trials, and the killed one beside them as failed."""
    # The fewest trials that show it.
    flags = search_flags(tickets, tiny, tmp_path / "killed", "--trials", 3 - epoch)
    undisturbed = trials_of(study[0])[: 3 - epoch]
    epochs_before = sum(len(trial.intermediate_values) for trial in undisturbed[:number])
    run_until(flags, STEPS_PER_EPOCH * (epochs_before + epoch) + 2)
    assert [trial.state.is_finished() for trial in trials_of(tmp_path / "killed")] == [True] * number + [False]
    ok(*flags)
    found = trials_of(tmp_path / "killed")
    killed = found.pop(number)
    assert killed.state.name == "FAIL"
    assert len(killed.intermediate_values) == epoch
    assert [trial.params for trial in found] == [trial.params for trial in undisturbed]
    assert [told(trial) for trial in found[: number + 1]] == [told(trial) for trial in undisturbed[: number + 1]]
    if epoch == 0:
        # Hyperband counts the score of an epoch that a killed trial finished beside that of its second try.
        assert [told(trial) for trial in found] == [told(trial) for trial in undisturbed]
        settings = [yaml.safe_load((one / "best.yaml").read_text()) for one in (study[0], tmp_path / "killed")]
        assert settings[0] == settings[1]


def test_interrupts_use_up_no_retry(study: tuple[Path, str], tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A trial that a person stopped three times is tried again; one that dies three times is not."""
    flags = search_flags(tickets, tiny, tmp_path / "interrupted", "--trials", 1)
    for _ in range(3):
        run_interrupted(flags, 2)
    ok(*flags)
    *stopped, last = trials_of(tmp_path / "interrupted")
    assert [trial.state.name for trial in stopped] == ["FAIL"] * 3
    assert told(last) == told(trials_of(study[0])[0])
    for _ in range(3):
        run_until(search_flags(tickets, tiny, tmp_path / "dying", "--trials", 1), 2)
    fails(1, *search_flags(tickets, tiny, tmp_path / "dying", "--trials", 1), says=["process was killed"])


def test_commands_share_a_study(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A command leaves a trial alone that another one is at work on, and takes it up when that one is killed."""
    flags = search_flags(tickets, tiny, tmp_path / "study", "--trials", 2)
    with waiting_at(flags, 2):
        assert "Other processes are still at work" in ok(*flags).out
        first, second = trials_of(tmp_path / "study")
        assert first.state.name == "RUNNING"
        assert second.state.is_finished()
        assert first.params != second.params
    assert "best: trial" in ok(*flags).out
    found = trials_of(tmp_path / "study")
    assert [trial.state.name for trial in found[:1]] == ["FAIL"]
    assert len(found) == 3
    assert found[2].params == found[0].params
    assert found[2].state.is_finished()


def test_jobs_share_a_study(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Two processes do as many trials as were asked for, and no two the same ones."""
    ok(*search_flags(tickets, tiny, tmp_path / "study", "--jobs", 2))
    found = trials_of(tmp_path / "study")
    assert all(trial.state.is_finished() for trial in found)
    assert [trial.number for trial in found] == [0, 1, 2]
    assert len({trial.params["lr"] for trial in found}) == 3
    assert found[1].datetime_start < found[0].datetime_complete


def test_a_study_of_other_trials_is_refused(
    study: tuple[Path, str], tickets: Path, tiny: Path, other_tiny: Path, tmp_path: Path
) -> None:
    """The message names all that differs, and nothing is touched; the number of trials and of threads may differ."""
    folder = Path(shutil.copytree(study[0], tmp_path / "study"))
    before = len(trials_of(folder))
    same = search_flags(tickets, tiny, folder)
    other = [flag.replace("length=2,4", "length=2,8") for flag in same]
    fails(2, *other, "--epochs", 3, says=["--space length was 2,4 and is 2,8", "--epochs was 2.0 and is 3.0", "--out"])
    fails(2, *same, "--space", "warmup=uniform:0.1:0.3", says=["--space warmup was left out and is uniform:0.1:0.3"])
    fails(2, *search_flags(tickets, other_tiny, folder), says=["the model was", "--out"])
    data = write_csv(tmp_path / "tickets.csv", ticket_rows(42))
    fails(2, *search_flags(data, tiny, folder), says=["the data was", "--out"])
    assert len(trials_of(folder)) == before
    moved = write_csv(tmp_path / "moved.csv", ticket_rows())
    ok(*search_flags(moved, tiny, folder, "--trials", 2, "--threads", 2, "--seed", 0))
    assert len(trials_of(folder)) == before


def test_a_study_knows_the_weights_that_it_starts_from(
    trained: Path, tickets: Path, tiny: Path, tmp_path: Path
) -> None:
    """Other weights in the same folder would give scores that cannot be compared."""
    start = Path(shutil.copytree(trained, tmp_path / "start"))
    run = train_flags(tickets, tiny, tmp_path / "study", "--epochs", 1, "--start-from", start)
    flags = ("search", *run[1:], "--space", "lr=loguniform:1e-3:1e-1", "--trials", 1)
    ok(*flags)
    weights = start / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    fails(2, *flags, says=["the weights of --start-from was", "--out"])


def test_a_storage_that_is_none_is_refused(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A file that is no database, a folder in its place, and a study that is not ours are named."""
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "study.db").write_text("no database at all, but a text of some length\n" * 40)
    (tmp_path / "folder" / "study.db").mkdir(parents=True)
    for name in ("junk", "folder"):
        fails(1, *search_flags(tickets, tiny, tmp_path / name), says=[tmp_path / name / "study.db", "--out"])
    (tmp_path / "foreign").mkdir()
    foreign = optuna.create_study(
        study_name="search", storage=f"sqlite:///{tmp_path / 'foreign' / 'study.db'}", direction="maximize"
    )
    foreign.add_trial(optuna.create_trial(value=1.0))
    fails(1, *search_flags(tickets, tiny, tmp_path / "foreign"), says=["did not make", "--out"])


def test_a_trial_that_fails_does_not_end_the_study(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded with its reason; where every trial fails the reason is the end."""
    train = training.train

    def broken(config: Any, **more: Any) -> Any:
        if config.out.endswith(("trials/0", "trials/2")):
            raise RuntimeError("no luck")
        return train(config, **more)

    monkeypatch.setattr(training, "train", broken)
    printed = ok(*search_flags(tickets, tiny, tmp_path / "study", "--trials", 2)).out
    assert "trial 0: failed" in printed
    assert "no luck" in printed
    assert [trial.state.name for trial in trials_of(tmp_path / "study")] == ["FAIL", "COMPLETE"]
    with (tmp_path / "study" / "trials.csv").open(encoding="utf-8") as file:
        assert "RuntimeError: no luck" in next(csv.DictReader(file))["error"]
    none = promptwise(*search_flags(tickets, tiny, tmp_path / "none", "--trials", 1))
    assert none.code == 1
    assert "None of the 1 trials finished" in none.error
    assert "no luck" in none.error


def test_what_is_missing_is_said_at_once(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a model that does not exist, a file in the folder's place, several processes of one run, and optuna."""
    flags = search_flags(tickets, tiny, tmp_path / "study")
    (tmp_path / "file").touch()
    fails(1, *flags, "--out", tmp_path / "file", says=["is a file"])
    fails(2, *flags, "--model", tmp_path / "nowhere", says=["nowhere"])
    place = flags.index("--out")
    fails(2, *flags[:place], *flags[place + 2 :], says=["--out is missing"])
    with monkeypatch.context() as several:
        several.setenv("WORLD_SIZE", "2")
        fails(2, *flags, says=["--jobs", "2"])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "optuna", None)
        fails(2, *flags, says=["promptwise[search]"])
    assert not (tmp_path / "study").exists()


def test_compare_searches_for_each_method(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Each method gets the settings of a study of its own, with as many trials, and the same command adds nothing."""
    space = {"lr": "loguniform:1e-3:1e-1", "length": [2, 4]}
    file = spec_file(
        tmp_path,
        tickets,
        tiny,
        methods={
            "shared": {"base": "prompt", "strategy": "shared"},
            "probe": {"strategy": "none", "search": {"lr": [0.01, 0.05]}},
            "fixed": {"strategy": "none", "lr": 0.02, "search": {}},
        },
        seeds=[1],
        search={"trials": 2, "space": space},
    )
    out = tmp_path / "out"
    planned = ok("compare", file, "--out", out, "--dry-run").out
    assert "search: tickets, shared: 0 of 2 trials done" in planned
    assert "tickets, fixed:" not in planned
    assert not out.exists()
    ok("compare", file, "--out", out, "--threads", 1)
    records = {record["method"]: record for record in map(read_json, (out / "records").glob("*.json"))}
    assert {record["purpose"] for record in records.values()} == {"result"}
    found = [trials_of(folder) for folder in (out / "studies").iterdir()]
    assert [len(trials) for trials in found] == [2, 2]
    of_probe, of_shared = sorted(found, key=lambda trials: len(trials[0].params))
    for name, trials in (("probe", of_probe), ("shared", of_shared)):
        best = max((one for one in trials if one.value is not None), key=lambda one: (one.value, -one.number))
        settings = records[name]["settings"]
        assert {key: settings[key] for key in best.params} == best.params
        assert settings["seed"] == 1
    assert "length" in of_shared[0].params
    assert records["fixed"]["settings"]["lr"] == 0.02
    assert "0 runs to do" in ok("compare", file, "--out", out, "--dry-run").out
    ok("compare", file, "--out", out, "--threads", 1)
    assert {record["method"] for record in map(read_json, (out / "records").glob("*.json"))} == set(records)
    assert len(list((out / "records").iterdir())) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"lr_search": {"values": [0.1]}}, ["lr_search", "leave one out"]),
        ({"search": {"trials": 0, "space": {"lr": [0.1, 0.2]}}}, ["trials is 0"]),
        ({"search": {"space": {"lenght": [1, 2]}}}, ["prompt tuning", "'lenght'", "'length'"]),
        ({"methods": {"probe": {"strategy": "none", "search": {"length": [2, 4]}}}}, ["probe", "nothing in any trial"]),
        ({"methods": {"probe": {"strategy": "none", "lr": 0.1, "search": {"lr": [1, 2]}}}}, ["probe", "--lr 0.1"]),
        ({"methods": {"probe": {"strategy": "none", "lr_search": [0.1]}}}, ["probe", "lr_search", "search: {}"]),
    ],
)
def test_a_malformed_search_of_an_experiment_is_refused(
    tickets: Path, tiny: Path, tmp_path: Path, more: dict[str, Any], says: list[str]
) -> None:
    """The message names the method and the word; nothing is written."""
    file = spec_file(tmp_path, tickets, tiny, **{"search": {"space": {"lr": [0.1, 0.2]}}, **more})
    fails(2, "compare", file, "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()
