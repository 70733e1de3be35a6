"""A pool's folder of adapters: what stays in memory, what is replaced, broken, too large, or outside."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptwise import AdapterPool, Prediction, PromptedModel, load_backbone, load_spec
from promptwise.backbones import loading as backbone_loading
from promptwise.errors import AdapterError, BackboneError, ConfigError
from promptwise.serving import loading
from promptwise.serving.batch import Row
from promptwise.serving.pool import HINTS
from promptwise.tasks.template import InputFormat

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEXT = "a good film"


@pytest.fixture(scope="module")
def backbone(tiny: Path) -> Any:
    """A loaded backbone, which the pools of these tests share."""
    return load_backbone(str(tiny), lm_head=True)


@pytest.fixture
def save(backbone: Any, tmp_path: Path) -> Callable[..., PromptedModel]:
    """Save an adapter under a name, with weights of a seed."""

    def made(name: str, seed: int = 0, **options: Any) -> PromptedModel:
        options = {"base": "prefix", "strategy": "shared", "length": 40, **options}
        model = PromptedModel.from_backbone(backbone, task=load_spec("sst2"), seed=seed, **options)
        with torch.no_grad():
            model.head.linear.weight.mul_(50)
        model.save_pretrained(tmp_path / "adapters" / name)
        return model.eval()

    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of adapters."""
    (tmp_path / "adapters").mkdir()
    return tmp_path / "adapters"


def near(found: Any, expected: list[Prediction]) -> bool:
    """Whether predictions are the same, up to the order of sums in a batch of another shape."""
    return len(found) == len(expected) and all(
        isinstance(one, Prediction) and one.probabilities == pytest.approx(other.probabilities, abs=5e-5)
        for one, other in zip(found, expected, strict=True)
    )


def touched(folder: Path, seconds: int = 10) -> None:
    """Let the files of an adapter be seen as changed, on file systems whose clock is coarse too."""
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_file():
            state = (folder / name).stat()
            os.utime(folder / name, ns=(state.st_atime_ns, state.st_mtime_ns + seconds * 10**9))


def test_the_least_recently_used_leave(save: Any, backbone: Any, folder: Path) -> None:
    """By number and by bytes; what left is loaded again when it is asked for, with the same answers."""
    models = {name: save(name, seed) for seed, name in enumerate("abcd")}
    pool = AdapterPool.from_backbone(backbone, folder=folder, keep=2)
    assert pool.names() == list("abcd")
    assert (pool.memory.adapters, pool.memory.bytes) == (0, 0)
    found = pool.predict([TEXT] * 6, list("abcdab"))
    assert near(found, [models[name].predict([TEXT])[0] for name in "abcdab"])
    assert not near(found[:1], found[1:2])
    assert pool.memory.adapters == 2
    kept = pool.adapter("a"), pool.adapter("b")
    pool.adapter("a")
    pool.adapter("c")
    assert pool.adapter("a") is kept[0], "the one that was used last stays"
    assert pool.adapter("b") is not kept[1]
    size = (folder / "a" / WEIGHTS).stat().st_size
    few = AdapterPool.from_backbone(backbone, folder=folder, keep_bytes=int(2.5 * size))
    few.predict([TEXT] * 4, list("abcd"))
    assert few.memory.adapters == 2
    assert few.memory.bytes <= few.memory.most_bytes


@pytest.mark.parametrize("half", [False, True])
def test_memory_is_that_of_the_files(save: Any, backbone: Any, folder: Path, half: bool) -> None:
    """The bytes that are reported are those of the files, up to their headers; numbers of half the size stay so."""
    for seed in range(3):
        model = save(f"{seed}", seed)
        if half:
            with torch.no_grad():
                model.strategy.vectors.copy_(model.strategy.vectors.half())
                model.head.linear.weight.copy_(model.head.linear.weight.half())
            model.save_pretrained(folder / f"{seed}")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    answers = pool.predict([TEXT] * 3, list("012"))
    models = [PromptedModel.from_pretrained(folder / name, backbone) for name in "012"]
    assert near(answers, [model.predict([TEXT])[0] for model in models])
    files = sum(file.stat().st_size for file in folder.glob(f"*/{WEIGHTS}"))
    assert abs(pool.memory.bytes / files - 1) < 0.1
    assert pool.memory.bytes == sum(pool.adapter(name).bytes for name in "012")


def test_a_replaced_adapter_is_taken_up(save: Any, backbone: Any, folder: Path) -> None:
    """The new one answers without a restart; while it is half written the old one does."""
    old = save("a", 1).predict([TEXT])
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    assert pool.predict([TEXT], ["a"]) == old
    new_model = save("b", 2)
    new = new_model.predict([TEXT])
    assert new != old
    # Its configuration is there, and its weights are not whole.
    shutil.copy(folder / "b" / CONFIG, folder / "a" / CONFIG)
    content = (folder / "b" / WEIGHTS).read_bytes()
    (folder / "a" / WEIGHTS).write_bytes(content[:-100])
    touched(folder / "a")
    assert pool.predict([TEXT], ["a"]) == old
    assert "a" in pool.problems
    with pytest.raises(AdapterError, match="a"):
        pool.reload("a")
    assert pool.predict([TEXT], ["a"]) == old
    (folder / "a" / WEIGHTS).unlink()
    assert pool.predict([TEXT], ["a"]) == old
    (folder / "a" / WEIGHTS).write_bytes(content)
    touched(folder / "a", 20)
    assert pool.predict([TEXT], ["a"]) == new
    assert pool.problems == {}
    assert pool.memory.adapters == 1
    before = pool.adapter("a")
    pool.reload("a")
    assert pool.adapter("a") is not before
    shutil.rmtree(folder / "a")
    with pytest.raises(AdapterError, match="There is no adapter 'a'"):
        pool.predict([TEXT], ["a"])
    assert pool.memory.adapters == 0


def test_a_new_adapter_needs_no_restart(save: Any, backbone: Any, folder: Path) -> None:
    """What is put into the folder later can be asked for."""
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    with pytest.raises(AdapterError, match="late"):
        pool.predict([TEXT], ["late"])
    model = save("late")
    assert pool.predict([TEXT], ["late"]) == model.predict([TEXT])
    with pytest.raises(AdapterError, match="Did you mean 'late'"):
        pool.predict([TEXT], ["lat"])


def cut(folder: Path) -> None:
    """Take the end of the weights away."""
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])


def no_json(folder: Path) -> None:
    """Break the configuration."""
    (folder / CONFIG).write_text("{", encoding="utf-8")


def huge_config(folder: Path) -> None:
    """Let the configuration be larger than any."""
    with (folder / CONFIG).open("a", encoding="utf-8") as file:
        file.write(" " * loading.CONFIG_LIMIT)


def claims_more(folder: Path) -> None:
    """Let the configuration claim more vectors than the weights have."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["prompt"]["length"] = 4096
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def pickled(folder: Path) -> None:
    """Put pickled weights in the place of safetensors."""
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "adapter_model.bin")


def sparse(folder: Path) -> None:
    """Let the weights be a terabyte of nothing."""
    os.truncate(folder / WEIGHTS, 2**40)


def grown(folder: Path) -> None:
    """Add bytes that no tensor has."""
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"more")


def huge_header(folder: Path) -> None:
    """Claim a header that would take all memory."""
    (folder / WEIGHTS).write_bytes((2**60).to_bytes(8, "little") + b"{}")


def double(folder: Path) -> None:
    """Store the weights in float64."""
    save_file({name: value.double() for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


def more_tensors(folder: Path) -> None:
    """Add a tensor."""
    save_file({**load_file(folder / WEIGHTS), "strategy.more": torch.zeros(2)}, folder / WEIGHTS)


HARMS: dict[Callable[[Path], None], str] = {
    cut: "cannot be loaded",
    no_json: "not valid JSON",
    huge_config: "the most that is read",
    claims_more: "has shape",
    pickled: "no adapter_model.safetensors",
    sparse: "keep_bytes",
    grown: "cannot be loaded",
    huge_header: "the most that is read",
    double: "F64",
    more_tensors: "'strategy.more' has no place",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_broken_adapter_is_named_and_the_others_go_on(
    save: Any, backbone: Any, folder: Path, harm: Callable[[Path], None]
) -> None:
    """Its rows are errors; nobody else's are."""
    good = save("good").predict([TEXT])[0]
    save("bad", 1)
    harm(folder / "bad")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    names = ["good", "bad", "good", "bad"]
    found = pool.predict([TEXT] * 4, names, on_error="return")
    assert near(found[::2], [good, good])
    for error in found[1::2]:
        assert isinstance(error, AdapterError)
        assert str(folder / "bad") in str(error)
        assert HARMS[harm] in str(error)
    assert list(pool.problems) == ["bad"]
    assert pool.memory.adapters == 1
    with pytest.raises(AdapterError, match="bad"):
        pool.predict([TEXT] * 4, names)


def test_a_configuration_takes_no_memory_before_it_is_checked(
    save: Any, backbone: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is claimed is compared with the file's header; weights that do not fit are never read."""
    save("bad")
    claims_more(folder / "bad")
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or b"")
    with pytest.raises(AdapterError, match="has shape"):
        AdapterPool.from_backbone(backbone, folder=folder).adapter("bad")
    assert read == []


NAMES = ["", ".", "..", "../outside", "a/b", "/etc", "..\\outside", ".hidden", "a\0b", "link", "files", "x" * 5000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_names_do_not_leave_the_folder(save: Any, backbone: Any, folder: Path, tmp_path: Path, name: str) -> None:
    """Neither by their letters nor by links; what they lead to is an adapter that could be loaded."""
    save("inside")
    for place in (tmp_path / "outside", folder / ".hidden", folder / "a" / "b"):
        shutil.copytree(folder / "inside", place)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "files").mkdir()
    for file in (CONFIG, WEIGHTS):
        (folder / "files" / file).symlink_to(tmp_path / "outside" / file)
    pool = AdapterPool.from_backbone(backbone, folder=folder, hub=False)
    assert pool.names() == ["inside"]
    with pytest.raises(AdapterError):
        pool.predict([TEXT], [name])
    assert pool.memory.adapters == 0


def test_a_link_within_the_folder_is_followed(save: Any, backbone: Any, folder: Path) -> None:
    """As those do who switch between versions."""
    model = save("v1")
    (folder / "current").symlink_to(folder / "v1")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    assert pool.predict([TEXT], ["current"]) == model.predict([TEXT])
    other = save("v2", 2)
    (folder / "next").symlink_to(folder / "v2")
    (folder / "next").replace(folder / "current")
    assert pool.predict([TEXT], ["current"]) == other.predict([TEXT])


def test_other_backbones_and_changed_ones_are_refused(
    save: Any, backbone: Any, folder: Path, other_tiny: Path, headless_tiny: Path
) -> None:
    """By name, with what would serve them."""
    save("a")
    save("cloze", head="classifier")
    other = AdapterPool.from_backbone(str(other_tiny), folder=folder)
    with pytest.raises(AdapterError, match=r"adapters/a was made for .* fingerprint"):
        other.adapter("a")
    config = json.loads((folder / "a" / CONFIG).read_text(encoding="utf-8"))
    config["prompt"] |= {"tune_backbone": True}
    (folder / "a" / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(AdapterError, match="changes the backbone's own weights"):
        AdapterPool.from_backbone(backbone, folder=folder).adapter("a")


def test_a_backbone_without_a_head_serves_classifiers_alone(save: Any, folder: Path, headless_tiny: Path) -> None:
    """Without a language-model head there are no cloze questions, and the pool is opened all the same."""
    pool = AdapterPool.from_backbone(str(headless_tiny), folder=folder)
    assert not pool.backbone.has_lm_head
    with pytest.raises(BackboneError, match="lm_head"):
        pool.add_zero_shot("zero", "sst2")


def test_what_is_asked_wrongly_says_so(save: Any, backbone: Any, folder: Path) -> None:
    """Numbers that do not match, one string for several, names that are taken, limits of nothing, no folder."""
    save("a")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    with pytest.raises(ConfigError, match="2 texts need as many adapters"):
        pool.predict([TEXT, TEXT], ["a"])
    with pytest.raises(ConfigError, match="several texts"):
        pool.predict(TEXT, ["a"])
    with pytest.raises(ConfigError, match="several adapters"):
        pool.predict_all(TEXT, "a")
    with pytest.raises(ConfigError, match="single texts"):
        pool.predict([(TEXT, TEXT)], ["a"])
    mixed = pool.predict([(TEXT, TEXT), TEXT], ["a", "a"], on_error="return")
    assert isinstance(mixed[0], ConfigError)
    assert isinstance(mixed[1], Prediction)
    with pytest.raises(AdapterError, match="taken"):
        pool.add_zero_shot("a", "sst2")
    pool.add_zero_shot("zero", replace(load_spec("sst2"), label_words={"negative": ("bad",), "positive": ("good",)}))
    assert pool.names() == ["a", "zero"]
    assert set(pool.predict_all(TEXT, ["zero", "a"])) == {"zero", "a"}
    with pytest.raises(ConfigError, match="keep must be at least 1"):
        AdapterPool.from_backbone(backbone, folder=folder, keep=0)
    with pytest.raises(AdapterError, match="There is no folder"):
        AdapterPool.from_backbone(backbone, folder=folder / "missing")


def test_scores_that_are_not_finite_are_errors_of_their_rows(save: Any, backbone: Any, folder: Path) -> None:
    """Numbers that overflow in one adapter leave the others' rows as they are."""
    save("good")
    model = save("bad", 1)
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    _, good = pool.predict([TEXT] * 2, ["bad", "good"])
    with torch.no_grad():
        model.head.linear.weight.fill_(3e38)
    model.save_pretrained(folder / "bad")
    found = pool.predict([TEXT] * 2, ["bad", "good"], on_error="return")
    assert isinstance(found[0], BackboneError)
    assert "'bad' are not finite" in str(found[0])
    assert found[1] == good


def test_threads_share_a_pool_while_an_adapter_is_replaced(save: Any, backbone: Any, folder: Path) -> None:
    """Every answer is that of one whole version."""
    versions = [save("new", seed).predict([TEXT])[0] for seed in (1, 2)]
    save("a", 1)
    steady = save("steady", 3).predict([TEXT])[0]
    pool = AdapterPool.from_backbone(backbone, folder=folder, keep=1)
    answers: list[tuple[str, Any]] = []

    def ask() -> None:
        for _ in range(15):
            for name in ("a", "steady"):
                answers.append((name, pool.predict([TEXT], [name], on_error="return")[0]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    save("a", 2)
    for thread in threads:
        thread.join()
    assert len(answers) == 90
    assert all(answer == steady for name, answer in answers if name == "steady")
    # Out of memory and half written, it is an error of its rows.
    assert all(answer in versions or isinstance(answer, AdapterError) for name, answer in answers if name == "a")
    assert pool.predict([TEXT], ["a"])[0] == versions[1]


def test_reading_an_adapter_waits_for_no_batch(save: Any, backbone: Any, folder: Path) -> None:
    """One that is new is read while adapters of its kind run, whose tensors stand in for those of the kind."""
    save("a", 1)
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    pool.adapter("a")
    expected = save("b", 2).predict([TEXT])
    with pool.store.loader.running:
        reader = threading.Thread(target=pool.adapter, args=("b",))
        reader.start()
        reader.join(30)
        assert not reader.is_alive()
        assert pool.memory.adapters == 2
    assert pool.predict([TEXT], ["b"]) == expected


def test_the_tokenizer_serves_one_thread_at_a_time(save: Any, backbone: Any, folder: Path) -> None:
    """Reading an adapter asks it for the words around a text; another thread's texts must not be cut by that."""
    save("a")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    with pool.store.loader.encoding:
        for work in (lambda: pool.adapter("a"), lambda: pool.add_zero_shot("asked", "sst2")):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(1.0)
            assert thread.is_alive()
            waiting = thread
    waiting.join(60)
    assert pool.names() == ["a", "asked"]
    assert isinstance(pool.rows([(TEXT, "a")])[0], Row)


def test_a_text_is_tokenised_once_for_all_that_are_asked(save: Any, backbone: Any, folder: Path) -> None:
    """However many adapters a request names, and the answers are those of each alone."""
    models = {name: save(name, seed) for seed, name in enumerate("abc")}
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    texts = [TEXT, "a bad film"]
    for name in models:
        pool.adapter(name)
    with mock.patch.object(InputFormat, "encode", autospec=True, side_effect=InputFormat.encode) as encode:
        rows = pool.rows([(text, name) for text in texts for name in models])
    assert [list(call.args[1]) for call in encode.call_args_list] == [[(text, None) for text in texts]]
    found = pool.answers(rows)
    expected = [models[name].predict([text])[0] for text in texts for name in models]
    assert near(found, expected)


def test_unknown_names_cost_little(save: Any, backbone: Any, folder: Path) -> None:
    """The nearest names are looked for a few times in a call, and never to list what there is."""
    save("good")
    for number in range(20):
        (folder / f"other{number}").mkdir()
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    listed = pool.store.source._plain_names
    with mock.patch.object(pool.store.source, "_plain_names", side_effect=listed) as looked:
        assert pool.names() == ["good"]
        assert not looked.called
        found = pool.rows([(TEXT, f"goood{number}") for number in range(100)])
        assert looked.call_count == HINTS
    assert "Did you mean 'good'" in str(found[0])
    assert all("There is no adapter 'goood" in str(error) for error in found)
    with mock.patch.object(pool.store.source, "_plain_names", side_effect=listed) as looked:
        assert len(list(pool.predict_stream([(TEXT, f"goood{number}") for number in range(100)]))) == 100
        assert looked.call_count == HINTS


def test_a_name_that_is_no_text_is_passed_over(save: Any, backbone: Any, folder: Path) -> None:
    """A folder whose name has other bytes than UTF-8 cannot be asked for, and neither can half a character."""
    save("good")
    os.rename(os.fsencode(shutil.copytree(folder / "good", folder / "copy")), os.fsencode(folder) + b"/caf\xe9")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    assert pool.names() == ["good"]
    (error,) = pool.predict([TEXT], ["\ud800"], on_error="return")
    assert isinstance(error, AdapterError)


def test_many_claimed_classes_take_no_memory(save: Any, backbone: Any, folder: Path) -> None:
    """A refused adapter leaves nothing behind; what classifiers share are shapes."""
    save("bad")
    config = json.loads((folder / "bad" / CONFIG).read_text(encoding="utf-8"))
    config["task"]["labels"] = [f"label {number}" for number in range(20_000)]
    (folder / "bad" / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"label_words has no word for the label 'label 0'") as caught:
        AdapterPool.from_backbone(backbone, folder=folder).adapter("bad")
    assert len(str(caught.value)) < 3000
    for key in ("template", "label_words"):
        del config["task"][key]
    (folder / "bad" / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    pool = AdapterPool.from_backbone(backbone, folder=folder)
    with pytest.raises(AdapterError, match="has shape"):
        pool.adapter("bad")
    heads = pool.store.loader._heads.values()
    assert heads
    assert all(tensor.is_meta for head in heads for tensor in head.state_dict().values())


def test_an_encoder_without_a_head_is_read_once(headless_tiny: Path, folder: Path, monkeypatch: Any) -> None:
    """It is the same as one that is asked for without."""
    read: list[str] = []

    def locate(name: str, revision: str | None = None) -> Path:
        read.append(name)
        return Path(name)

    monkeypatch.setattr(backbone_loading, "locate", locate)
    pool = AdapterPool.from_backbone(str(headless_tiny), folder=folder)
    assert read == [str(headless_tiny)]
    plain = load_backbone(str(headless_tiny))
    assert (pool.backbone.has_lm_head, pool.backbone.fingerprint) == (False, plain.fingerprint)
    assert pool.backbone.parameter_count == plain.parameter_count
    assert pool.backbone.lm_fingerprint is None
