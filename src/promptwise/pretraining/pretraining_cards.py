"""The model cards of cloze weights and of knowledge, from what their runs measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from promptwise.backbones.hub import DEFAULT_MODEL

TEMPLATES = Path(__file__).parent / "templates"


def cloze_card(metrics: dict[str, Any], name: str) -> str:
    """The card of cloze weights in Markdown with the Hub's metadata block.

    Args:
        metrics: What ``metrics.json`` holds.
        name: Folder or name, as the usage example gives it.
    """
    return _card("cloze_card.md", metrics, name, tags=["masked-lm", "lora"], pipeline_tag="fill-mask")


def knowledge_card(metrics: dict[str, Any], name: str) -> str:
    """The card of a folder of knowledge.

    Args:
        metrics: What ``metrics.json`` holds.
        name: The folder, as the usage example gives it.
    """
    model = metrics["config"]["model"]
    flag = "" if model == DEFAULT_MODEL else f" --model {model}"
    return _card("knowledge_card.md", metrics, name, tags=["prompt-tuning", "topics"], model_flag=flag)


def _card(
    template: str,
    metrics: dict[str, Any],
    name: str,
    tags: list[str],
    pipeline_tag: str | None = None,
    **values: Any,
) -> str:
    """A card from a template, which finds the metrics by their keys.

    Args:
        template: The template's file.
        metrics: What ``metrics.json`` holds.
        name: Folder or name, as the usage example gives it.
        tags: What the Hub lists it under, besides ``promptwise``.
        pipeline_tag: The Hub's name of what it does.
        values: What else the template has places for.
    """
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(
        base_model=metrics["backbone"]["name"],
        library_name="promptwise",
        pipeline_tag=pipeline_tag,
        tags=["promptwise", *tags],
    )
    return (
        f"{ModelCard.from_template(header, template_path=str(TEMPLATES / template), name=name, **metrics, **values)}\n"
    )
