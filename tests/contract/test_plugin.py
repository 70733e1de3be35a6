"""A strategy from outside the package: found by its entry point, trained, saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from promptwise import PromptedModel
from promptwise.config import PromptConfig
from promptwise.core.instance import Instance, masked_mean
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import AdapterError, ConfigError, UnknownNameError
from promptwise.registry import STRATEGIES, Registry
from promptwise.strategies.base import Strategy
from promptwise.tasks.data import TaskData
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, load, make_model, tensors_of

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
    monkeypatch.setattr(fresh_strategies, "_targets", dict(BUILTIN))
    with pytest.raises(AdapterError, match="'toy'"):
        PromptedModel.from_pretrained(tmp_path / "adapter", str(folder), dtype="fp32", device="cpu")


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
