"""The model card of a saved adapter, from its configuration and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.backbones.hub import DEFAULT_CLOZE_MODEL, DEFAULT_MODEL
from promptwise.config import PromptConfig
from promptwise.training.run_metrics import RunMetrics

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PAPER = "https://arxiv.org/abs/2206.01958"
TEMPLATE = Path(__file__).parent / "templates" / "adapter_card.md"


def model_card(config: dict[str, Any], metrics: RunMetrics | None, place: str) -> str:
    """The card in Markdown with the Hub's metadata block.

    Args:
        config: What ``adapter_config.json`` holds.
        metrics: What the run measured that made the adapter, if it was made by one.
        place: Folder or repository, as the usage example names it.
    """
    from huggingface_hub import ModelCard, ModelCardData

    task, prompt = config["task"], PromptConfig.from_saved(config["prompt"])
    backbone = config["backbone"]["name"]
    tags = ["fine-tuning"] if prompt.tune_backbone else ["parameter-efficient"]
    if prompt.tune == "lora":
        tags.append("lora")
    header = ModelCardData(
        base_model=_on_the_hub(backbone),
        eval_results=_results(task, metrics),
        model_name=Path(place).name,
        library_name="promptwise",
        pipeline_tag="text-classification",
        tags=["promptwise", *(["prompt-tuning"] if prompt.has_prompt else []), *tags],
    )
    card = ModelCard.from_template(
        header,
        template_path=str(TEMPLATE),
        task=task,
        opening=_opening(prompt, config["backbone"]),
        version=config["promptwise_version"],
        made_of=_made_of(prompt),
        tuned=config["tuned_parameters"],
        share=config["tuned_share"],
        place=place,
        example='("First text.", "Second text.")' if task.get("text_pair") else '"A text to classify."',
        metrics=metrics,
        limits=_limits(prompt),
        paper=PAPER,
    )
    return f"{card}\n"


def _opening(prompt: PromptConfig, backbone: Mapping[str, Any]) -> str:
    """What the adapter is for the model that it was made from."""
    name, revision = backbone["name"], backbone.get("revision")
    model = f"`{name}`" if revision is None else f"`{name}` at commit `{revision}`"
    return f"The model {model}, fine-tuned" if prompt.tune_backbone else f"An adapter for the frozen model {model}"


def _on_the_hub(backbone: str) -> str | None:
    """The repository of a backbone, which the Hub links to; ``None`` for a folder, which its metadata may not name."""
    if backbone == DEFAULT_CLOZE_MODEL:
        # Its weights lie over those of this model.
        return DEFAULT_MODEL
    folder = Path(backbone).expanduser().exists() or backbone.startswith((".", "/", "~"))
    return None if folder or backbone.count("/") > 1 else backbone


def _results(task: Mapping[str, Any], metrics: RunMetrics | None) -> list[EvalResult] | None:
    """The scores on the test split in the form of the Hub's metadata."""
    from huggingface_hub import EvalResult

    if metrics is None or not metrics.test:
        return None
    source = task.get("source") or {}
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=source.get("dataset") or task["name"],
            dataset_name=task["name"],
            dataset_config=source.get("config"),
            dataset_split=(source.get("splits") or {}).get("test", "test"),
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in metrics.test.items()
    ]


def _made_of(prompt: PromptConfig) -> str:
    """Base, strategy, K and head, as far as the adapter has them."""
    further = f" (`{prompt.further_flags}`)" if prompt.further_flags else ""
    if prompt.has_prompt:
        length = f", K = {prompt.length}" if prompt.has_length else ""
        return f"{prompt.base} tuning, strategy {prompt.method}{further}{length}, {prompt.head} head"
    method = (
        "all weights trained" if prompt.tune_backbone else prompt.method if prompt.changes_backbone else "no prompt"
    )
    return f"{method}{further}, {prompt.head} head"


def _limits(prompt: PromptConfig) -> str:
    """What the adapter is not good for."""
    if prompt.tune_backbone:
        return (
            "The folder holds every weight of the tuned model, is loaded on the exact backbone weights that it was "
            "trained from, and knows the labels above alone."
        )
    limits = "The adapter works on the exact backbone weights that it was trained on, and knows the labels above alone."
    if prompt.tune == "lora":
        limits += " Loading it needs peft: `pip install 'promptwise[pretrain]'`."
    return limits
