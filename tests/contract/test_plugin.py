"""A strategy from outside the package: found by its entry point, trained, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from promptwise import PromptedModel
from promptwise.config import PromptConfig
from promptwise.config.composition import off_default
from promptwise.config.settings import setting
from promptwise.core.instance import Instance, masked_mean
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import AdapterError, ConfigError, UnknownNameError
from promptwise.experiments.read import experiment_from
from promptwise.registry import ENCODERS, STRATEGIES, Entry, Registry
from promptwise.strategies.base import Strategy
from promptwise.strategies.networks.base import TextNetwork
from promptwise.tasks.data import TaskData
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, load, make_model, tensors_of
from tests.integration.command import fails, ok, ticket_rows, train_flags, write_csv

GROUP = "promptwise.strategies"
TARGET = f"{__name__}:ToyStrategy"
BUILTIN = {
    "shared": ("promptwise.strategies.shared:SharedPrompt", "the baseline"),
    "random": ("promptwise.strategies.table:RandomTable", "a table"),
}


class ToyStrategy(Strategy):
    """A strategy of a few lines: one linear map of the mean embedding of the text, for all vectors."""

    def __init__(self, shape: PromptShape) -> None:
        super().__init__(shape)
        self.map = nn.Linear(shape.embedding_size, shape.length * shape.width)

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real."""
        mean = masked_mean(instance.embeddings.float(), instance.text)
        vectors = self.map(mean).unflatten(-1, (self.shape.length, self.shape.width))
        return Prompt(vectors, torch.ones_like(vectors[..., 0], dtype=torch.bool))


@dataclass(frozen=True)
class WarmSettings:
    """What the strategy below can be told: a field with limits, and a plain one."""

    temperature: float = setting(1.0, "What the vectors are multiplied with.", minimum=0)
    centred: bool = False


class WarmStrategy(ToyStrategy):
    """As above, with settings of its own."""

    settings: ClassVar[type] = WarmSettings

    def __init__(self, shape: PromptShape, temperature: float, centred: bool) -> None:
        super().__init__(shape)
        self.temperature, self.centred = temperature, centred

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, scaled."""
        prompt = super().forward(instance)
        return Prompt(prompt.vectors * self.temperature, prompt.mask)


@dataclass(frozen=True)
class WideSettings:
    """What the network below can be told."""

    hidden: int = setting(4, "Its width.", minimum=1)


class WideNetwork(TextNetwork):
    """A network of one layer."""

    settings: ClassVar[type] = WideSettings

    def __init__(self, embedding_size: int, hidden: int) -> None:
        super().__init__(embedding_size)
        self.layer, self.features = nn.Linear(embedding_size, hidden), hidden

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Features ``[B, F]``."""
        return masked_mean(self.layer(tokens), mask)


@dataclass(frozen=True)
class TakenSettings:
    """A setting whose name is that of another part."""

    pooling: str = "none"


class TakenStrategy(ToyStrategy):
    """A strategy with a name that is taken."""

    settings: ClassVar[type] = TakenSettings


@dataclass
class Distribution:
    """A distribution of metadata alone, on ``sys.path`` as ``pip install`` would leave it."""

    folder: Path
    patch: pytest.MonkeyPatch
    entries: dict[str, str] = field(default_factory=dict)

    def install(self, **entries: str) -> None:
        """Write the metadata with its entry points, and put the folder on the path."""
        info = self.folder / "toy_prompts-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-prompts\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{GROUP}]", *(f"{name} = {target}" for name, target in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.patch.syspath_prepend(str(self.folder))


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """Give a distribution that can be installed for the time of one test."""
    return Distribution(tmp_path / "site", monkeypatch)


@pytest.fixture
def fresh_strategies(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Give the package's own registry as a new process has it: plug-ins unread; put back afterwards."""
    monkeypatch.setattr(STRATEGIES, "_targets", dict(STRATEGIES._targets))
    monkeypatch.setattr(STRATEGIES, "_plugins_read", False)
    return STRATEGIES


def test_entry_point_is_found(distribution: Distribution) -> None:
    """A registry lists a plug-in after its own names, says where it is from, and imports it."""
    distribution.install(toy=TARGET)
    registry = Registry("strategy", GROUP, BUILTIN)
    assert registry.names() == ["shared", "random", "toy"]
    assert registry.get("toy") is ToyStrategy
    assert registry.describe("toy") == "from toy-prompts"


def test_plugin_is_unknown_before_it_is_installed(fresh_strategies: Registry) -> None:
    """Without the distribution there is no such strategy; the tests below do not pass by what is left over."""
    assert "toy" not in fresh_strategies.names()
    with pytest.raises(UnknownNameError, match="Unknown --strategy 'toy'"):
        PromptConfig(strategy="toy")


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_plugin_trains_and_saves(
    base: str,
    distribution: Distribution,
    fresh_strategies: Registry,
    tiny_folder: TinyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A strategy that the package has never seen is fitted, saved and loaded as a built-in one is."""
    distribution.install(toy=TARGET)
    folder = tiny_folder("bert")
    model = make_model(load(folder, lm_head=False), base=base, strategy="toy")
    assert isinstance(model.strategy, ToyStrategy)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"strategy.map.weight", "strategy.map.bias", "head.linear.weight", "head.linear.bias"} <= trained
    before = tensors_of(model)
    examples = list[Example](EXAMPLES)
    data = TaskData(SPEC, examples, examples, examples, fingerprint="", origin="test")
    metrics = model.fit(data, tmp_path / "checkpoints", epochs=2, batch_size=3, lr=1e-2)
    assert metrics["steps"] == 4
    after = tensors_of(model)
    assert {key for key in after if not torch.equal(after[key], before[key])} == trained
    model.save_pretrained(tmp_path / "adapter")
    again = PromptedModel.from_pretrained(tmp_path / "adapter", str(folder), dtype="fp32", device="cpu")
    assert isinstance(again.strategy, ToyStrategy)
    assert again.prompt_config.length == K
    rows = model.features(EXAMPLES)
    assert torch.equal(again.logits(rows), model.logits(rows))
    # Where the plug-in is not installed, the adapter is refused with the name that is missing.
    monkeypatch.setattr(fresh_strategies, "_targets", {name: Entry(*parts) for name, parts in BUILTIN.items()})
    with pytest.raises(AdapterError, match="'toy'"):
        PromptedModel.from_pretrained(tmp_path / "adapter", str(folder), dtype="fp32", device="cpu")


WARM = f"{__name__}:WarmStrategy"


def test_plugin_brings_settings_of_its_own(
    distribution: Distribution, fresh_strategies: Registry, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    """They are keyword arguments and keys like any other, are saved with the adapter and come back with it."""
    distribution.install(warm=WARM)
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_model(backbone, strategy="warm", temperature="3", centred=True)
    assert (model.strategy.temperature, model.strategy.centred) == (3.0, True)
    rows = model.features(EXAMPLES)
    assert not torch.equal(model.logits(rows), make_model(backbone, strategy="warm").logits(rows))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["prompt"]["temperature"] == 3.0
    again = PromptedModel.from_pretrained(tmp_path, backbone)
    assert again.prompt_config == model.prompt_config
    assert torch.equal(again.logits(rows), model.logits(rows))
    assert off_default(model.prompt_config) == {"strategy": "warm", "length": K, "temperature": 3.0, "centred": True}


def test_settings_of_a_plugin_are_checked(distribution: Distribution, fresh_strategies: Registry) -> None:
    """Names, types and limits, as with a built-in one; a name that another part has is refused."""
    distribution.install(warm=WARM, taken=f"{__name__}:TakenStrategy")
    for wrong, said in (
        ({"temprature": 2}, "'temperature'"),
        ({"temperature": -1}, "--temperature is -1.0; the least is 0"),
        ({"temperature": "hot"}, "--temperature must be a number, found 'hot'"),
        ({"encoder": "cnn"}, "--encoder would change nothing beside --strategy warm"),
    ):
        with pytest.raises(ConfigError) as caught:
            PromptConfig(strategy="warm", **wrong)
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="'temperature'"):
        PromptConfig(strategy="shared", temperature=2)
    with pytest.raises(ConfigError, match="'pooling', a name that another part"):
        PromptConfig(strategy="taken")
    cell = {"name": "x", "tasks": ["cb"], "methods": {"w": {"strategy": "warm"}}, "grid": {"temperature": [1, 2]}}
    assert [one.config(0, None).get("temperature") for one in experiment_from(cell, "x").cells] == [1.0, 2.0]


def test_settings_of_a_plugin_on_the_command_line(
    distribution: Distribution, fresh_strategies: Registry, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    """``--set`` gives them, ``strategies`` lists them, and wrong ones are refused with the nearest name."""
    distribution.install(warm=WARM)
    data = write_csv(tmp_path / "tickets.csv", ticket_rows())
    flags = train_flags(data, tiny_folder("bert"), tmp_path / "run", "--strategy", "warm", "--length", 2)
    fails(2, *flags, "--set", "temprature=2", says=["'temprature'", "'temperature'"])
    fails(2, *flags, "--set", "temperature", says=["'temperature'", "--set length=8"])
    fails(2, *flags, "--set", "temperature=2", "--set", "temperature=3", says=["--temperature is given twice"])
    fails(2, *flags, "--set", "length=3", says=["--length is given twice"])
    assert not (tmp_path / "run").exists()
    ok(*flags, "--set", "temperature=0.5", "--set", "centred=true")
    prompt = json.loads((tmp_path / "run" / "adapter_config.json").read_text())["prompt"]
    assert (prompt["temperature"], prompt["centred"]) == (0.5, True)
    assert "--temperature 0.5 --centred" in " ".join(ok("info", tmp_path / "run").out.split())
    assert "--set temperature=1.0" in " ".join(ok("strategies").out.split())


def test_a_network_brings_settings_of_its_own(tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the network that a strategy names are settings of the model."""
    monkeypatch.setattr(ENCODERS, "_targets", {**ENCODERS._targets, "wide": Entry(f"{__name__}:WideNetwork")})
    model = make_model(load(tiny_folder("bert"), lm_head=False), strategy="encoder", encoder="wide", hidden=7)
    assert model.strategy.network.features == 7
    assert model.logits(model.features(EXAMPLES)).shape == (len(EXAMPLES), 3)
    with pytest.raises(ConfigError, match="'hidden'"):
        PromptConfig(strategy="encoder", encoder="cnn", hidden=7)


def test_collision_is_refused(distribution: Distribution) -> None:
    """A plug-in that takes a built-in name is refused with both targets."""
    distribution.install(shared=TARGET)
    registry = Registry("strategy", GROUP, BUILTIN)
    with pytest.raises(ConfigError) as caught:
        registry.names()
    for part in ("'shared'", BUILTIN["shared"][0], TARGET, GROUP):
        assert part in str(caught.value)


def test_collision_is_refused_again(distribution: Distribution) -> None:
    """A collision is refused at every call, and hides no plug-in that was listed after it."""
    distribution.install(shared=TARGET, toy=TARGET)
    registry = Registry("strategy", GROUP, BUILTIN)
    for _ in range(2):
        with pytest.raises(ConfigError, match="taken"):
            registry.get("toy")


def test_collision_of_registered_names_is_refused() -> None:
    """Registering a name twice is refused unless it stands for the same thing."""
    registry = Registry("strategy", GROUP, BUILTIN)
    registry.register("toy", TARGET)
    registry.register("toy", TARGET)
    with pytest.raises(ConfigError, match="taken"):
        registry.register("toy", BUILTIN["shared"][0])
    assert registry.get("toy") is ToyStrategy


@pytest.mark.parametrize("target", ["no_such_module_of_a_plugin:Toy", f"{__name__}:NoSuchClass"])
def test_broken_plugin_is_named(target: str, distribution: Distribution) -> None:
    """A plug-in that cannot be imported is listed, and refused with its target when it is used."""
    distribution.install(toy=target)
    registry = Registry("strategy", GROUP, BUILTIN)
    assert "toy" in registry.names()
    assert registry.get("shared").__name__ == "SharedPrompt"
    with pytest.raises(ConfigError) as caught:
        registry.get("toy")
    assert target in str(caught.value)


def test_unknown_name_gives_near_matches(distribution: Distribution) -> None:
    """An unknown name is answered with near matches, plug-ins included, and with all that is known."""
    distribution.install(toy=TARGET)
    registry = Registry("strategy", GROUP, BUILTIN)
    with pytest.raises(UnknownNameError) as caught:
        registry.get("toyy")
    assert "Did you mean 'toy'?" in str(caught.value)
    assert "Known: random, shared, toy." in str(caught.value)
    with pytest.raises(UnknownNameError, match="Did you mean 'random'"):
        registry.get("rnadom")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("qqq")
    assert "Did you mean" not in str(caught.value)
