"""``promptwise pretrain``: what comes before any task."""

from __future__ import annotations

from typing import Any

import click

from promptwise.cli.flags import CommandGroup, folder_options, given, options_of, set_option
from promptwise.config import ClozeConfig, KnowledgeConfig, PairsConfig
from promptwise.config.composition import config_from_mapping
from promptwise.terminal import quiet


@click.group(cls=CommandGroup)
def pretrain() -> None:
    """Train what comes before any task."""


@pretrain.command()
@options_of(ClozeConfig)
@folder_options
def cloze(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Give an encoder a language-model head, so that the cloze head and templates work on it.

    The head and low-rank updates of the encoder are trained to fill masks in a text; use the result with --model DIR.

    \b
    promptwise pretrain cloze --corpus wiki.txt.gz --corpus reviews.jsonl --out runs/cloze
    promptwise pretrain cloze --corpus Salesforce/wikitext:wikitext-103-raw-v1:train --out runs/cloze
    """
    config = config_from_mapping(ClozeConfig, given(flags), "flags")
    from promptwise.pretraining.cloze_pretraining import pretrain_cloze
    from promptwise.runs.lifecycle import is_main_process

    quiet()
    metrics = pretrain_cloze(config, overwrite=overwrite, resume=resume)
    if is_main_process():
        from promptwise.cli.tables import print_pretraining

        print_pretraining(metrics, str(config.out))


@pretrain.command()
@options_of(KnowledgeConfig)
@folder_options
def knowledge(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a table of token vectors and small networks to tell topics, for prompts to start from.

    Use the result with --strategy pretrained, encoder or topic, and --knowledge DIR.

    \b
    promptwise pretrain knowledge --corpus topics13 --out runs/knowledge
    promptwise pretrain knowledge --corpus wiki_topic13 --data-dir data/wiki_topic13 --out runs/knowledge
    """
    config = config_from_mapping(KnowledgeConfig, given(flags), "flags")
    from promptwise.pretraining.knowledge_pretraining import pretrain_knowledge
    from promptwise.runs.lifecycle import is_main_process

    quiet()
    metrics = pretrain_knowledge(config, overwrite=overwrite, resume=resume)
    if is_main_process():
        from promptwise.cli.tables import print_knowledge

        print_knowledge(metrics, str(config.out))


@pretrain.command()
@options_of(PairsConfig)
@set_option
@folder_options
def prompt(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a prompt on text without labels, for tasks to start from: pre-trained prompt tuning (PPT).

    The prompt learns to tell whether one sentence follows another, is of the same paragraph, or of another one. Use the
    result with --start-from DIR and the same --base, --strategy and --length.

    \b
    promptwise pretrain prompt --corpus wiki.txt.gz --out runs/ppt
    promptwise train --task rte --model minilm-cloze --base prompt --strategy shared --start-from runs/ppt --out runs/a
    """
    config = config_from_mapping(PairsConfig, given(flags), "flags")
    from promptwise.pretraining.sentence_pairs import load_pairs
    from promptwise.runs.lifecycle import is_main_process
    from promptwise.runs.train import train

    quiet()
    metrics = train(config, overwrite=overwrite, resume=resume, load=load_pairs)
    if is_main_process():
        from promptwise.cli.tables import print_result

        print_result(metrics, str(config.out))
