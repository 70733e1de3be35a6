"""The model card of a saved adapter, from its configuration and its metrics."""

from __future__ import annotations

from typing import Any

import yaml

from promptwise.config import PromptConfig

REPOSITORY = "https://arxiv.org/abs/2206.01958"


def model_card(config: dict[str, Any], metrics: dict[str, Any] | None, place: str) -> str:
    """The card in Markdown with the Hub's metadata block.

    Args:
        config: What ``adapter_config.json`` holds.
        metrics: What ``metrics.json`` holds, if the adapter was trained by a run.
        place: Folder or repository, as the usage example names it.
    """
    task, prompt, backbone = config["task"], config["prompt"], config["backbone"]
    chosen = PromptConfig.from_saved(prompt)
    further = f" (`{chosen.further_flags}`)" if chosen.further_flags else ""
    method = f"{chosen.base} tuning, strategy {chosen.method}{further}"
    header = {
        "base_model": backbone["name"],
        "library_name": "promptwise",
        "pipeline_tag": "text-classification",
        "tags": ["promptwise", "prompt-tuning", "parameter-efficient"],
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=True).strip(),
        "---",
        "",
        f"# {task['name']}: {task['description']}",
        "",
        f"An adapter for the frozen model `{backbone['name']}`, made with promptwise {config['promptwise_version']}: "
        f"{method}, K = {prompt['length']}, {prompt['head']} head. It tunes {config['tuned_parameters']:,} numbers, "
        f"{config['tuned_share']:.2%} of the backbone's.",
        "",
        "```python",
        "from promptwise import PromptedModel",
        "",
        f'model = PromptedModel.from_pretrained("{place}")',
        f"print(model.predict([{_example(task)}]))",
        "```",
        "",
        f"Labels: {', '.join(task['labels'])}.",
        "",
    ]
    if metrics is not None:
        lines += [
            "## Results",
            "",
            "| split | rows | " + " | ".join(metrics["validation"]) + " |",
            "|---" * (len(metrics["validation"]) + 2) + "|",
            *(
                f"| {split} | {metrics['data']['rows'][split]} | "
                + " | ".join(f"{value:.4f}" for value in metrics[split].values())
                + " |"
                for split in ("validation", "test")
                if metrics[split]
            ),
            "",
            f"The checkpoint was chosen on the validation rows; the test rows were scored once. "
            f"Majority class on test: {metrics['majority']:.4f}. Seed {metrics['seed']}, one run.",
            "",
            f"Data: {metrics['data']['origin']} (fingerprint `{metrics['data']['fingerprint'][:16]}`). "
            f"Training took {metrics['time']['train_s']:.0f} s on {metrics['versions']['device']}.",
            "",
        ]
    lines += [
        "## Limits",
        "",
        "The adapter works on the exact backbone weights that it was trained on, and knows the labels above alone. "
        f"Method: Instance-wise Prompt Tuning ({REPOSITORY}).",
        "",
    ]
    return "\n".join(lines)


def _example(task: dict[str, Any]) -> str:
    return '("First text.", "Second text.")' if task.get("text_pair") else '"A text to classify."'
