"""States that enter ``--from-layer`` are kept on disk: the same bits for every run that reads them, or a refusal."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.errors import BackboneError, OutputError
from promptwise.tasks.data import TaskData, task_from_file
from promptwise.training.kept_states import StatesFile, collate_with_states, keep_states
from tests.integration.command import checkpoints, fails, ok, read_json, train_flags
from tests.integration.killing import run_until
from tests.integration.test_processes import losses
from tests.integration.test_resume import STEPS_PER_EPOCH, check_same_run

FROM_1 = ("--from-layer", 1, "--base", "prompt", "--strategy", "encoder")
WEIGHTS = "adapter_model.safetensors"

Rows = list[dict[str, Any]]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def data(tickets: Path) -> TaskData:
    """The tickets."""
    return task_from_file(tickets, text_column="body", label_column="team")


@pytest.fixture
def model(tiny: Path, data: TaskData) -> PromptedModel:
    """A prompt that enters at layer 1."""
    backbone = prepare_backbone(str(tiny), False, "fp32", "cpu")
    return PromptedModel.from_backbone(backbone, task=data.spec, base="prompt", strategy="shared", from_layer=1)


@pytest.fixture
def rows(model: PromptedModel, data: TaskData) -> Rows:
    """The training rows, whose texts differ in length."""
    found = model.features(data.train)
    for place, row in enumerate(found):
        length = len(row["input_ids"]) - place % 4
        row.update({key: row[key][:length] for key in ("input_ids", "text_mask", "token_type_ids")})
    return found


def kept(folder: Path) -> dict[str, int]:
    """The files of states in a folder, with when they were written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npy")}


def test_states_kept_are_states_computed(model: PromptedModel, rows: Rows, tmp_path: Path) -> None:
    """Each row gets its own states, in its own length, rounded to float16; a batch pads them as it pads tokens."""
    found = keep_states(model, rows, tmp_path)
    assert [{**row, "states": 0} for row in found] == [{**row, "states": 0} for row in rows]
    assert len({len(row["input_ids"]) for row in rows}) > 2
    batch = model.collate(rows)
    batch.pop("labels")
    instance, _ = model.aligned(**batch)
    states = model.backbone.states(instance, 1)
    together = collate_with_states(model.collate, found)
    assert together["states"].dtype == torch.float16
    assert not together["states"][~instance.mask].any()
    torch.testing.assert_close(together["states"].float()[instance.mask], states[instance.mask], rtol=2**-10, atol=1e-4)
    for row in found:
        assert row["states"].read().shape == (len(row["input_ids"]), model.backbone.layer_size)
    tokens = sum(len(row["input_ids"]) for row in rows)
    (file,) = tmp_path.glob("*.npy")
    assert np.load(file).shape == (tokens, model.backbone.layer_size), "no padding, plain numpy"
    again = keep_states(model, rows[::-1], tmp_path)[::-1]
    assert len(kept(tmp_path)) == 2, "rows of like length lie in their own order"
    assert all(torch.equal(one["states"].read(), two["states"].read()) for one, two in zip(found, again, strict=True))


def test_a_run_with_kept_states_has_the_bits_of_one_that_makes_them(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by another seed's run, made anew, or in the run's own folder, which is empty of them at the end."""
    flags = train_flags(tickets, tiny, tmp_path / "own", *FROM_1, "--epochs", 3)
    ok(*flags)
    assert not (tmp_path / "own" / "trainer").exists()
    cache = tmp_path / "cache"
    ok(*flags, "--out", tmp_path / "other", "--seed", 1, "--states-cache", cache, "--batch-size", 4)
    before = kept(cache)
    assert len(before) == 2, "of training and of validation"
    made: list[int] = []
    states = Backbone.states

    def counted(self: Backbone, instance: Any, layer: int) -> Any:
        made.append(len(instance.ids))
        return states(self, instance, layer)

    monkeypatch.setattr(Backbone, "states", counted)
    ok(*flags, "--out", tmp_path / "shared", "--states-cache", cache)
    assert kept(cache) == before
    rows = read_json(tmp_path / "shared" / "metrics.json")["data"]["rows"]
    scored = rows["validation"] + rows["test"]
    assert sum(made) == scored, "rows went through the lower layers for the temperature and the score alone"
    assert (tmp_path / "shared" / WEIGHTS).read_bytes() == (tmp_path / "own" / WEIGHTS).read_bytes()
    made.clear()
    ok(*flags, "--out", tmp_path / "none", "--states-cache", "none")
    assert sum(made) == 3 * (rows["train"] + rows["validation"]) + scored
    assert losses(tmp_path / "none") == pytest.approx(losses(tmp_path / "own"), abs=5e-3)
    assert losses(tmp_path / "none")


KILLED: dict[str, tuple[bool, tuple[Any, ...]]] = {
    "kept": (False, ()),
    "made again": (True, ("--batch-tokens", 60, "--gradient-accumulation", 2)),
}


@pytest.mark.parametrize("states_then", KILLED)
def test_a_killed_run_ends_as_an_undisturbed_one(states_then: str, tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Resumed from the states that the killed process left, or from states made anew."""
    removed, more = KILLED[states_then]
    flags = train_flags(tickets, tiny, tmp_path / "undisturbed", *FROM_1, "--epochs", 4, *more)
    ok(*flags)
    killed = [*flags, "--out", str(tmp_path / "killed")]
    run_until(killed, 2 * STEPS_PER_EPOCH + 2)
    assert checkpoints(tmp_path / "killed")
    states = tmp_path / "killed" / "trainer" / "states"
    assert len(kept(states)) == 2
    if removed:
        shutil.rmtree(states)
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")
    assert not states.exists()


def test_a_resumed_run_does_not_change_to_exact_states(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """States that were rounded and states that were not do not lead to the same weights."""
    flags = train_flags(tickets, tiny, tmp_path / "run", *FROM_1, "--epochs", 4)
    run_until(flags, STEPS_PER_EPOCH + 2)
    fails(2, *flags, "--resume", "--states-cache", "none", says=["kept states", "float16", "none"])


def test_of_two_processes_one_writes(model: PromptedModel, rows: Rows, tmp_path: Path) -> None:
    """The other waits, and reads the same file; what a killed process left half written is removed."""
    files = [StatesFile(model, rows, tmp_path) for _ in range(4)]
    (tmp_path / f".{files[0].path.name}.killed").write_bytes(b"half")
    wrote: list[int] = []
    parts = StatesFile._parts

    def slow(self: StatesFile, progress: bool) -> Any:
        wrote.append(1)
        yield from parts(self, progress)

    threads = [threading.Thread(target=file.make, args=(False,)) for file in files]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatesFile, "_parts", slow)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrote == [1]
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".lock", ".npy"]


def test_compare_shares_states_and_removes_them(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Runs of methods and seeds read one file of each split; at the end none is left, and no record knows of any."""
    methods = {
        "prompt": {"base": "prompt", "strategy": "shared", "from_layer": 1},
        "biases": {"base": "hidden", "strategy": "context-bias", "from_layer": 1},
        "whole": {"base": "prompt", "strategy": "shared"},
    }
    spec = {
        "name": "small",
        "settings": {"model": str(tiny), "epochs": 1, "batch_size": 8, "dtype": "fp32"},
        "tasks": {"tickets": {"data": str(tickets), "text_column": "body", "label_column": "team"}},
        "methods": methods,
        "seeds": [0, 1],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    ok("compare", tmp_path / "spec.yaml", "--out", tmp_path / "out", "--threads", 1, "--jobs", 2)
    records = [read_json(file) for file in (tmp_path / "out" / "records").iterdir()]
    assert [record["status"] for record in records] == ["finished"] * 6
    assert not (tmp_path / "out" / "states").exists()
    assert not any("states_cache" in record["settings"] for record in records)
    assert {record["settings"].get("from_layer") for record in records if record["method"] != "whole"} == {1}
    for method in ("prompt", "biases"):
        methods[method]["states_cache"] = str(tmp_path / "cache")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    before = {record["id"]: record["choices"] for record in records}
    ok("compare", tmp_path / "spec.yaml", "--out", tmp_path / "named", "--threads", 1)
    found = [read_json(file) for file in (tmp_path / "named" / "records").iterdir()]
    assert {record["id"]: record["choices"] for record in found} == before
    assert len(kept(tmp_path / "cache")) == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """A disk with so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 10**12 - free, free))


def test_states_larger_than_the_disk(
    tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is written, with what they take, what there is, and the ways out."""
    flags = train_flags(tickets, tiny, tmp_path / "run", *FROM_1)
    full_disk(monkeypatch, 1000)
    fails(1, *flags, says=["layer 1", "MiB", "free", "--states-cache", "--train-rows", "--states-cache none"])
    assert list(tmp_path.iterdir()) == []
    ok(*flags, "--states-cache", "none")


def test_states_that_are_there_need_no_room(
    model: PromptedModel, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the room that they take is enough, one byte less is not, and none is needed once they are there."""
    needed = sum(len(row["input_ids"]) for row in rows) * model.backbone.layer_size * 2
    full_disk(monkeypatch, needed - 1)
    with pytest.raises(OutputError, match="free"):
        keep_states(model, rows, tmp_path)
    full_disk(monkeypatch, needed)
    keep_states(model, rows, tmp_path)
    full_disk(monkeypatch, 0)
    keep_states(model, rows, tmp_path)


def rename(file: StatesFile, other: StatesFile) -> None:
    """Give a file the name of another."""
    shutil.copy(file.path, other.path)
    shutil.copy(file.described, other.described)


Break = Callable[[StatesFile, StatesFile], object]
BROKEN: dict[str, tuple[Break, str]] = {
    "of other texts": (rename, "states of another texts"),
    "cut short": (lambda _, own: own.path.write_bytes(own.path.read_bytes()[:-5]), "holds no kept states"),
    "no numbers": (lambda _, own: own.path.write_bytes(b"junk"), "holds no kept states"),
    "without description": (lambda _, own: own.described.unlink(), "holds no kept states"),
    "of another shape": (lambda _, own: np.save(own.path, np.zeros((3, 3), np.float16)), "shape"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_of_something_else_is_refused(model: PromptedModel, rows: Rows, tmp_path: Path, how: str) -> None:
    """It is named, with the way out, and left as it is."""
    other, own = (StatesFile(model, part, tmp_path) for part in (rows[:5], rows[5:10]))
    other.make()
    own.make()
    breaks, says = BROKEN[how]
    breaks(other, own)
    content = own.path.read_bytes()
    with pytest.raises(OutputError, match=says) as caught:
        own.make()
    assert str(own.path) in str(caught.value)
    assert "--states-cache" in str(caught.value)
    assert own.path.read_bytes() == content


def test_states_of_another_model_are_another_file(
    model: PromptedModel, rows: Rows, other_tiny: Path, tmp_path: Path
) -> None:
    """So are those of other tokens, and of another compute dtype; a description in another's place names the model."""
    backbone = prepare_backbone(str(other_tiny), False, "fp32", "cpu")
    other = PromptedModel.from_backbone(backbone, task=model.spec, base="prompt", strategy="shared", from_layer=1)
    ours, theirs = (StatesFile(one, rows, tmp_path) for one in (model, other))
    narrow = prepare_backbone(str(other_tiny), False, "bf16", "cpu")
    bf16 = PromptedModel.from_backbone(narrow, task=model.spec, base="prompt", strategy="shared", from_layer=1)
    fewer = StatesFile(model, [*rows[:-1], {**rows[-1], "input_ids": [*rows[-1]["input_ids"][:-1], 7]}], tmp_path)
    names = {file.path.name for file in (ours, theirs, StatesFile(bf16, rows, tmp_path), fewer)}
    assert len(names) == 4
    ours.make()
    rename(ours, theirs)
    with pytest.raises(OutputError, match=f"states of another backbone: {model.backbone.fingerprint[:16]}"):
        theirs.make()


def test_states_that_float16_does_not_hold(model: PromptedModel, rows: Rows, tmp_path: Path) -> None:
    """Infinity would be trained on; nothing is left of the file."""
    layer: Any = model.backbone.layers[0]
    with torch.no_grad():
        layer.output.LayerNorm.weight.mul_(1e6)
    with pytest.raises(BackboneError, match=r"65504.*--states-cache none"):
        keep_states(model, rows, tmp_path)
    assert list(tmp_path.glob("*.npy")) == []
    assert list(tmp_path.glob(".*.npy*")) == []


def test_a_folder_that_cannot_be_written(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A file in its place is named, and nothing is trained."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    flags = train_flags(tickets, tiny, tmp_path / "run", *FROM_1, "--states-cache", tmp_path / "file")
    fails(1, *flags, says=[tmp_path / "file", "--states-cache"])


@pytest.mark.parametrize("more", [(), ("--states-cache", "none")])
def test_a_cache_of_nothing_is_refused(tickets: Path, tiny: Path, tmp_path: Path, more: Sequence[str]) -> None:
    """Without ``--from-layer`` there is nothing to keep."""
    flags = train_flags(tickets, tiny, tmp_path / "run", *(more or ("--states-cache", "here")))
    fails(2, *flags, says=["--states-cache", "--from-layer"])


def test_python_keeps_states_beside_the_checkpoints(model: PromptedModel, data: TaskData, tmp_path: Path) -> None:
    """``fit`` in a folder leaves them there, with what they are."""
    model.fit(data, tmp_path, epochs=1)
    assert len(kept(tmp_path / "states")) == 2
    (about, _) = (json.loads(file.read_text("utf-8")) for file in (tmp_path / "states").glob("*.json"))
    assert about["backbone"] == model.backbone.fingerprint
    assert about["layer"] == 1
