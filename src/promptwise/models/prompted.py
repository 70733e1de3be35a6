"""The assembler: backbone x injector x strategy x head."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.checkpointing import enable_checkpointing
from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.backbones.placement import place
from promptwise.config import PromptConfig
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt
from promptwise.core.seeding import seeded
from promptwise.errors import ConfigError
from promptwise.models.first_values import set_first_values
from promptwise.models.input_format import input_format_for
from promptwise.models.parts import check_head, check_parts, head_options, knowledge_of, prompt_parts, tuning_options
from promptwise.models.saved_state import expect_no_frozen, expect_no_tied, leave_out_frozen, leave_out_tied
from promptwise.models.task_tokenizer import TaskTokenizer
from promptwise.models.text_model import TextModel
from promptwise.registry import HEADS, STRATEGIES, TUNINGS
from promptwise.tasks.spec import TaskSpec, load_spec
from promptwise.tasks.template import Features, require_mask_last

if TYPE_CHECKING:
    from promptwise.tasks.data import TaskData
    from promptwise.tasks.examples import Example
    from promptwise.training.run_metrics import RunMetrics

FOLD_LIMIT = 2**30
"""The most bytes that folding takes unless more are allowed; 140 MB on MiniLM, 926 MB on a RoBERTa of base size."""


class PromptedModel(TextModel):
    """A frozen backbone that is adapted to a task by a prompt made from each input.

    Only the strategy, the injector, the head and a tuning have weights of their own; :meth:`state_dict` holds nothing
    else.
    Make one with :meth:`from_backbone` or :meth:`from_pretrained`. It is an ordinary module for ``Trainer``.

    Args:
        backbone: The frozen model.
        spec: The task.
        config: What the model is made of.
        seed: Seed of the first values of the trained weights.
        new: Whether they start from what ``--init`` says; a saved adapter, whose own are loaded next, needs no start.

    Raises:
        ConfigError: A value cannot work with this backbone and task.
        BackboneError: The backbone cannot serve the base or the head.
    """

    # Otherwise Trainer multiplies the loss by the accumulation steps and the number of processes.
    accepts_loss_kwargs = False
    checkpointing = False
    """Whether the layers' activations are made again in the backward pass."""
    metrics: RunMetrics | None = None
    """What the last :meth:`fit` measured."""
    loaded_from: Path | None = None
    """The folder that it was loaded from, whose metrics a card shows."""

    def __init__(
        self, backbone: Backbone, spec: TaskSpec, config: PromptConfig, seed: int = 0, new: bool = True
    ) -> None:
        super().__init__()
        self.spec, self.prompt_config, self.seed = spec, config, seed
        check_head(config, spec)
        head = HEADS.get(config.head)
        if head.cloze and not backbone.has_lm_head:
            raise ConfigError("The cloze head needs a backbone that was loaded with lm_head=True.")
        if head.cloze and backbone.kind == "decoder":
            require_mask_last(spec, backbone.name)
        if config.tune_backbone != backbone.trainable:
            raise ConfigError(
                f"{backbone.name} was loaded to be {'tuned' if backbone.trainable else 'frozen'}, and --tune-backbone "
                f"is {'on' if config.tune_backbone else 'off'}. Name the model instead of a loaded backbone."
            )
        check_parts(config)
        self._add_tuning(backbone, config, seed)
        with seeded(seed):
            self.injector, self.strategy = prompt_parts(backbone, config)
            self.head = head(backbone, spec, **head_options(config))
        self.input_format = input_format_for(
            backbone, spec, config.max_length, head.cloze, self.injector.reserved_positions, config.hard_prompt
        )
        self.input_format.check(self.injector.reserved_positions, backbone.max_positions, backbone.name)
        self.backbone = backbone
        self.register_state_dict_post_hook(leave_out_tied if config.tune_backbone else leave_out_frozen)
        self.register_load_state_dict_post_hook(expect_no_tied if config.tune_backbone else expect_no_frozen)
        self.to(backbone.device)
        self.eval()
        if new:
            set_first_values(backbone, config, self.injector, self.strategy, seed)

    @staticmethod
    def _add_tuning(backbone: Backbone, config: PromptConfig, seed: int) -> None:
        """Add the weights of ``--tune`` to a backbone that is for this model alone.

        Raises:
            ConfigError: The backbone may serve other models, or has the weights of another one.
        """
        tuned = config.tune != "none"
        if backbone.use != ("reserved" if tuned else "shared"):
            state = {
                "shared": "was loaded to be frozen and shared",
                "reserved": "was loaded for a model with --tune",
                "taken": "has the added weights of another model",
            }[backbone.use]
            raise ConfigError(
                f"{backbone.name} {state}, and --tune is {config.tune}. Name the model instead of a loaded backbone."
            )
        with seeded(seed):
            TUNINGS.get(config.tune)(**tuning_options(config)).add_to(backbone)
        if tuned:
            backbone.use = "taken"

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Backbone = DEFAULT_MODEL,
        *,
        task: str | TaskSpec,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        seed: int = 0,
        revision: str | None = None,
        **options: Any,
    ) -> PromptedModel:
        """Put a new, untrained prompt on a backbone.

        Args:
            backbone: A folder, a name on the Hub, or a loaded backbone.
            task: A task's name or spec.
            dtype: ``auto``, ``bf16`` or ``fp32``: what the frozen model computes in.
            device: Where to run; by default an accelerator if there is one.
            seed: Seed of the first values.
            revision: A commit, branch or tag of the backbone on the Hub; by default its main branch. An adapter that is
                saved records the commit, and is loaded with it again.
            options: Fields of :class:`~promptwise.config.PromptConfig`, such as ``base``, ``strategy``, ``length``
                and ``head``, and those of what they name, such as ``encoder``; they are flags of ``promptwise train``
                too, whose help says what each does.

        Raises:
            ConfigError: An option is unknown, or cannot work with this backbone.
            BackboneError: The backbone cannot be found, read, or serve the base or the head.
        """
        spec = load_spec(task) if isinstance(task, str) else task
        config = PromptConfig(**options)
        check_parts(config)
        backbone = place(
            backbone,
            HEADS.get(config.head).cloze,
            dtype,
            device,
            trainable=config.tune_backbone,
            reserved=config.tune != "none",
            revision=revision,
        )
        return cls(backbone, spec, config, seed)

    @cached_property
    def config(self) -> Any:
        """The backbone's configuration with the task's labels, for ``transformers.pipeline``; a copy of its own."""
        config = copy.deepcopy(self.backbone.config)
        labels = self.spec.labels or (self.spec.label,)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        # Of transformers' names there is none for words.
        config.problem_type = None if self.problem.per_token else self.spec.problem
        return config

    @cached_property
    def tokenizer(self) -> TaskTokenizer:
        """What makes the inputs of this model and task out of texts, for ``transformers.pipeline``."""
        return TaskTokenizer(self)

    @staticmethod
    def can_generate() -> bool:
        """Whether the model writes text; ``transformers.pipeline`` asks."""
        return False

    @property
    def tuned_share(self) -> float:
        """Tuned parameters divided by those of the frozen backbone."""
        return self.tuned_parameters / self.backbone.parameter_count

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: what is trained at ``lr``, and the strategy at its own share of it."""
        strategy = [parameter for parameter in self.strategy.parameters() if parameter.requires_grad]
        others = {id(parameter) for parameter in strategy}
        # As in Trainer, weight decay is for matrices: a bias or a norm that is pulled to zero is another model.
        plain = [
            parameter
            for parameter in self.backbone.parameters()
            if parameter.requires_grad and parameter.dim() == 1 and id(parameter) not in others
        ]
        others |= {id(parameter) for parameter in plain}
        rest = [parameter for parameter in self.parameters() if parameter.requires_grad and id(parameter) not in others]
        groups: list[dict[str, Any]] = [
            {"params": rest, "lr": lr},
            {"params": strategy, "lr": lr * self.strategy.lr_scale},
            {"params": plain, "lr": lr, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def train(self, mode: bool = True) -> PromptedModel:
        """Switch the mode of everything but a frozen backbone; see :meth:`Backbone.train`."""
        super().train(mode)
        # transformers checkpoints layers in training mode alone. A frozen model has no dropout that this would start.
        # Another model on the same backbone may have switched them.
        for layer in self.backbone.checkpointed:
            layer.training = mode and (self.checkpointing or self.backbone.trainable)
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Keep no activations inside the backbone's layers, and make them again in the backward pass.

        ``Trainer`` calls it; arguments are those of ``PreTrainedModel``'s method.

        Raises:
            BackboneError: The backbone cannot do that.
        """
        enable_checkpointing(self.backbone, activation_checkpointing_kwargs, **options)
        self.checkpointing = True

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The name that :meth:`activation_checkpointing_enable` had before."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def hidden(self, instance: Instance) -> Tensor:
        """The last hidden state ``[B, T, H]`` with the prompt of each instance."""
        layer, entry = self.strategy.reads_layer, self.injector.from_layer
        if entry > 0:
            if instance.entering is None:
                instance = replace(instance, entering=self.backbone.states(instance, entry))
            injection = self.injection(instance)
            return self.backbone.run(instance, injection, from_layer=entry, states=instance.entering)
        if layer is None:
            return self.backbone.run(instance, self.injection(instance))
        instance = replace(instance, states=self.backbone.states(instance, layer))
        injection = self.injection(instance)
        lowest = injection.lowest_layer
        if lowest is None or lowest < layer or self.prompt_config.changes_backbone:
            # The states keep no gradient, which weights below the layer would need.
            return self.backbone.run(instance, injection)
        # Nothing enters below the layer that was read, so its states serve the model too.
        return self.backbone.run(instance, injection, from_layer=layer, states=instance.states)

    def hidden_read_as(self, instance: Instance, read: Instance) -> Tensor:
        """The last hidden state ``[B, T, H]`` of instances with the prompts that the strategy makes of others."""
        return self.backbone.run(instance, self.injection(read), from_layer=self.injector.from_layer)

    def injection(self, instance: Instance) -> Injection:
        """What enters the backbone for each instance: its prompt, as the injector has it."""
        layer = self.strategy.reads_layer
        if layer is not None and instance.states is None:
            known = instance.entering if layer == self.injector.from_layer else None
            states = self.backbone.states(instance, layer) if known is None else known
            instance = replace(instance, states=states)
        with self.own_precision():
            injection: Injection = self.injector.inject(instance, self.prompt(instance))
        return injection

    def prompt(self, instance: Instance) -> Prompt:
        """The prompt of each instance."""
        prompt: Prompt = self.strategy(self._read(instance))
        return prompt

    def _read(self, instance: Instance) -> Instance:
        """What the strategy sees of an instance."""
        count = self.prompt_config.reading
        return instance if count is None else instance.reading(count)

    def prepare(self, inputs: Iterable[Features], batch_size: int = 256) -> None:
        """Show the strategy every training input once, which vocabulary tables need before training.

        Args:
            inputs: Features as :meth:`features` makes them.
            batch_size: How many at a time.
        """
        # For its errors: a strategy does not know which backbone it is for.
        knowledge_of(self.prompt_config, self.backbone)
        with seeded(self.seed):
            instances = map(self._read, self.instances(inputs, batch_size))
            self.strategy.prepare(instances, self.backbone.base.get_input_embeddings())

    def fold(self, most_bytes: int = FOLD_LIMIT) -> int:
        """Make what the strategy adds to each token of the vocabulary once, so that inference only looks it up.

        Answers stay the same up to the rounding of what is added to float16, by at most 2^-11 of it: probabilities
        within 2e-3 in float32 and 0.05 in bfloat16, in which the unfolded sums are rounded themselves. It holds until
        the weights change: training, loading and a pass that keeps gradients drop it, and it is not saved with the
        adapter.

        Args:
            most_bytes: The most memory that it may take: layers x vocabulary x width x 2 bytes.

        Returns:
            The bytes that it takes.

        Raises:
            ConfigError: What the strategy adds depends on more than the token, or it would take more memory.
        """
        name = self.prompt_config.strategy
        if not self.strategy.folds:
            folding = [one for one in STRATEGIES.names() if STRATEGIES.get(one).folds]
            raise ConfigError(
                f"--strategy {name} cannot be folded: what it adds does not depend on the token alone. --fold is for "
                f"{' and '.join(folding)}; leave it out."
            )
        embedding = self.backbone.base.get_input_embeddings()
        size = self.strategy.folded_bytes(len(embedding.weight))
        if size > most_bytes:
            raise ConfigError(
                f"Folded, {name} on {self.backbone.name} would take {size / 2**20:,.0f} MiB for "
                f"{len(embedding.weight):,} tokens, and the most is {most_bytes / 2**20:,.0f} MiB. Leave --fold out, "
                "or give model.fold() a larger most_bytes."
            )
        self.strategy.fold(embedding)
        return size

    def fit(
        self,
        data: TaskData,
        output_dir: str | Path | None = None,
        states_cache: str | Path | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Train on a task's data, choose the checkpoint on its validation part, and score the test split once.

        Args:
            data: The task's splits, from ``load_task`` or ``task_from_file``.
            output_dir: Where checkpoints go; a temporary folder without it.
            states_cache: With ``from_layer`` the folder of the states that are kept, which other fits may share; by
                default ``states`` beside the checkpoints. ``"none"`` keeps none.
            options: Fields of :class:`~promptwise.config.FitConfig`, such as ``epochs``, ``lr`` and ``batch_size``;
                they are flags of ``promptwise train`` too, whose help says what each does.

        Returns:
            What ``metrics.json`` holds: ``test`` and ``validation`` scores, parameters, time and memory.

        Raises:
            ConfigError: The data is something else.
            TrainingError: The loss is not finite.
        """
        from promptwise.tasks.data import TaskData
        from promptwise.training.fit import fit

        if not isinstance(data, TaskData):
            raise ConfigError(
                f"fit takes the splits of a task, as load_task and task_from_file give them; found "
                f"{type(data).__name__}."
            )
        self.metrics = fit(self, data, {"seed": self.seed, **options}, output_dir, states_cache=states_cache)
        return self.metrics.to_dict()

    def evaluate(self, examples: Sequence[Example], batch_size: int = 64) -> dict[str, float]:
        """The metrics of the task on labelled examples, such as ``data.test``, by name.

        Args:
            examples: Of the task; ``load_task`` and ``task_from_file`` read them.
            batch_size: How many inputs at a time.

        Raises:
            ConfigError: They are something else.
            DataError: There are none.
        """
        from promptwise.tasks.examples import Example
        from promptwise.training.scoring import score

        wrong = next((one for one in examples if not isinstance(one, Example)), None)
        if wrong is not None:
            raise ConfigError(
                f"evaluate takes examples, such as data.test of a task; found {type(wrong).__name__} among them."
            )
        return score(self, self.spec, examples, batch_size)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``; see :mod:`promptwise.models.adapter`."""
        from promptwise.models.adapter import save_adapter

        save_adapter(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        backbone: Backbone | str | None = None,
        *,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> PromptedModel:
        """Load an adapter and put it on its backbone, at the revision that it was trained on.

        Args:
            name: A folder, or a repository on the Hub.
            backbone: A loaded backbone to share, or another place to load it from; by default the one named in
                the adapter.
            dtype: ``auto``, ``bf16`` or ``fp32``.
            device: Where to run; by default an accelerator if there is one.
            revision: A commit, branch or tag of the adapter's own repository; by default its main branch.

        Raises:
            AdapterError: Files are missing or altered, or the backbone has another fingerprint. Nothing is loaded.
        """
        from promptwise.models.adapter import load_adapter

        return load_adapter(cls, name, backbone, dtype, device, revision)

    @classmethod
    def from_peft(
        cls,
        name: str | Path,
        backbone: Backbone | str | None = None,
        *,
        task: str | TaskSpec | None = None,
        dtype: str = "auto",
        device: str | torch.device | None = None,
    ) -> PromptedModel:
        """Read an adapter that peft saved: prompt or prefix tuning of a decoder, or :class:`promptwise.IPTConfig`.

        The first two become the strategy ``shared`` on the base ``prompt`` or ``prefix``, with peft's logits; a text
        that stands alone has no padding, which peft's own classifiers may read. The model can then be saved as any.

        Args:
            name: A folder, or a repository on the Hub.
            backbone: A loaded backbone to share, or another place to load it from; by default the one named in the
                adapter.
            task: Names the classes. An adapter that continues texts needs one, whose template and words it is asked by.
            dtype: ``auto``, ``bf16`` or ``fp32``.
            device: Where to run; by default an accelerator if there is one.

        Raises:
            AdapterError: Files are missing, or what they hold cannot be a prompt here; says why.
            ConfigError: A task is needed, and none is given.
        """
        from promptwise.models.peft_adapter import load_peft_adapter

        return load_peft_adapter(cls, name, backbone, task, dtype, device)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the adapter to the Hub, with a card that has the scores of its run where they are known.

        Args:
            repo_id: Name of the repository, which is made if there is none.
            options: ``private`` for a new repository; the others go to ``HfApi.upload_folder``, such as ``revision``
                and ``commit_message``.

        Returns:
            The commit's address.

        Raises:
            AdapterError: The metrics beside the adapter that this was loaded from cannot be read.
        """
        from promptwise.models.adapter import push_adapter

        return push_adapter(self, repo_id, **options)
