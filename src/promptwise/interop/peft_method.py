"""Instance-wise prompts as a method of peft: ``get_peft_model(model, IPTConfig(...))``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.hub import locate
from promptwise.backbones.loading import check_vocabulary, declared_pooling
from promptwise.errors import BackboneError, ConfigError, PromptwiseError
from promptwise.interop.peft_config import PREFIX, IPTConfig, register
from promptwise.models.prompted import PromptedModel
from promptwise.tasks.problems import SINGLE
from promptwise.tasks.spec import TaskSpec

__all__ = ["IPTConfig", "IPTModel"]

_UNUSED = ("return_dict", "use_cache", "output_attentions", "output_hidden_states")
"""What callers of a classifier may say that changes nothing here, unless it asks for an output that there is not."""


class Prompts(nn.Module, BaseTunerLayer):
    """The prompted models of all adapters, in the form in which peft looks for what it has added to a model.

    Args:
        active: The adapter that is active.
    """

    adapter_layer_names = ("models",)
    other_param_names = ()

    def __init__(self, active: str) -> None:
        super().__init__()
        self.models = nn.ModuleDict()
        self._active_adapter: str | list[str] = active
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._trained: dict[str, tuple[set[str], bool]] = {}
        # A table that is loaded has a parameter of its own.
        self.register_load_state_dict_post_hook(_restore)

    def add(self, name: str, prompted: PromptedModel) -> None:
        """Add the model of an adapter; what wants a gradient in it can be trained."""
        self.models[name] = prompted
        self._trained[name] = {key for key, one in prompted.named_parameters() if one.requires_grad}, True

    def remove(self, name: str) -> None:
        """Take the model of an adapter away."""
        del self.models[name], self._trained[name]

    def let_train(self, name: str, trained: bool) -> None:
        """Let an adapter be trained, or not; tables that never are stay as they are."""
        parts, _ = self._trained[name]
        self._trained[name] = parts, trained
        self.restore(name)

    def restore(self, name: str) -> None:
        """Let what is trained of an adapter want a gradient, or not, as was said last."""
        parts, trained = self._trained[name]
        for key, parameter in self.models[name].named_parameters():
            if key in parts:
                parameter.requires_grad_(trained)


def _restore(prompts: nn.Module, incompatible: object) -> None:
    assert isinstance(prompts, Prompts)
    for name in prompts.models:
        prompts.restore(name)


class IPTModel(BaseTuner):
    """Runs a model of transformers with the prompts of promptwise, one :class:`~promptwise.PromptedModel` for each
    adapter.

    peft makes it; ``get_peft_model`` and ``PeftModel.from_pretrained`` return what wraps it. The wrapped model's body
    runs frozen and without dropout, its own head stays unused, and what a :class:`~promptwise.PromptedModel` can do,
    such as ``prepare``, ``predict`` or ``parameter_groups``, the active adapter does.
    """

    prefix = PREFIX
    tuner_layer_cls = BaseTunerLayer
    active_adapter: str | list[str]

    def inject_adapter(self, model: nn.Module, adapter_name: str, *arguments: object, **options: object) -> None:
        """Put a new prompt on the model; peft calls it.

        Raises:
            ConfigError: A setting cannot work with this model.
            BackboneError: It cannot be prompted this way, or computes in a dtype that is not served.
        """
        if nn.Linear(1, 1).weight.is_meta:
            raise ConfigError("Prompts are a few hundred kilobytes: leave low_cpu_mem_usage out.")
        # What is filled in below is of this model: the caller may put the configuration on another one.
        config: IPTConfig = copy.deepcopy(self.peft_config[adapter_name])
        self.peft_config[adapter_name] = config
        if PREFIX not in self._modules:
            self.add_module(PREFIX, Prompts(adapter_name))
            # In a list, because it is part of each adapter's model already.
            self._backbone = [_backbone_of(model, config)]
        backbone = self._backbone[0]
        spec = _spec_of(model, config)
        prompted = PromptedModel(backbone, spec, config.prompt_config, config.seed, new=not config.inference_mode)
        # The classes' names, and what the backbone's folder declares, are not at hand wherever it will be loaded.
        config.labels = list(spec.labels)
        config.prompt["pooling"] = prompted.head.pooling
        config.revision = config.revision or getattr(model.config, "_commit_hash", None)
        self._prompts.add(adapter_name, prompted)
        # peft wants a second adapter to be frozen until it is the active one.
        self.set_requires_grad(adapter_name, len(self._models) == 1 and not config.inference_mode)

    @property
    def _models(self) -> nn.ModuleDict:
        return self._prompts.models

    @property
    def _prompts(self) -> Prompts:
        prompts = self._modules[PREFIX]
        assert isinstance(prompts, Prompts)
        return prompts

    @property
    def prompted(self) -> PromptedModel:
        """The model of the active adapter.

        Raises:
            ConfigError: None is active, or several are.
        """
        names = self.active_adapters
        if len(names) != 1:
            raise ConfigError(f"Prompts of one adapter enter the model at a time; active are {names}.")
        model = self._models[names[0]]
        assert isinstance(model, PromptedModel)
        return model

    def __getattr__(self, name: str) -> Any:
        """What the active adapter has, and then what the wrapped model has."""
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            if name == "model" or PREFIX not in self._modules:
                raise
            prompted = self.prompted
            return getattr(prompted if name in _FROM_PROMPTED else self.model, name)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> Any:
        """Logits and, with labels, the loss, as a classifier of transformers gives them.

        Args:
            input_ids: ``[B, T]``, padded on either side.
            attention_mask: ``[B, T]``; without it all tokens are real.
            token_type_ids: ``[B, T]``.
            labels: ``[B]`` class indices.
            num_items_in_batch: The labels of a whole step, of which this batch may be a part: ``Trainer`` then adds the
                losses of its parts up.
            more: Further arguments of :meth:`~promptwise.PromptedModel.forward`; with ``disable_adapter`` all that the
                wrapped model takes.

        Raises:
            ConfigError: There are no ids, which strategies read, or an argument cannot be served.
        """
        if self._prompts.disable_adapters:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            given = {name: value for name, value in {**given, "labels": labels, **more}.items() if value is not None}
            return self.model(**given)
        if input_ids is None:
            raise ConfigError("Instance-wise prompts are made of tokens: give input_ids instead of inputs_embeds.")
        as_tuple = more.get("return_dict") is False
        asked = {name: value for name, value in more.items() if value is not None and name not in _UNUSED}
        asked |= {name: value for name, value in more.items() if name.startswith("output_") and value}
        unknown = [name for name in asked if name not in ("text_mask", "states", "temperature")]
        if unknown:
            raise ConfigError(f"The model with instance-wise prompts takes no {', '.join(unknown)}; leave it out.")
        if labels is not None and labels.is_floating_point():
            raise ConfigError(f"Labels are class indices [B] in integers; found {labels.dtype} {list(labels.shape)}.")
        output = self.prompted(input_ids, attention_mask, token_type_ids=token_type_ids, **asked)
        loss = None
        if labels is not None and num_items_in_batch is not None:
            total = nn.functional.cross_entropy(output.logits, labels, reduction="sum")
            loss = total / num_items_in_batch
        elif labels is not None:
            loss = self.prompted.loss(output.logits, labels)
        if as_tuple:
            return (output.logits,) if loss is None else (loss, output.logits)
        return SequenceClassifierOutput(loss=loss, logits=output.logits)

    def train(self, mode: bool = True) -> IPTModel:
        """Switch the mode of the prompts; the wrapped model runs as at test time."""
        self.training = mode
        self.model.train(False)
        for prompted in self._models.values():
            prompted.train(mode)
        return self

    def activation_checkpointing_enable(self, *arguments: Any, **options: Any) -> None:
        """See :meth:`~promptwise.PromptedModel.activation_checkpointing_enable`; it is for all adapters.

        The dropout that layers have themselves is set to 0, as checkpointed ones run in training mode.
        """
        for prompted in self._models.values():
            assert isinstance(prompted, PromptedModel)
            prompted.activation_checkpointing_enable(*arguments, **options)
        for module in self._backbone[0].checkpointed:
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, float):
                    setattr(module, name, 0.0)

    gradient_checkpointing_enable = activation_checkpointing_enable

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Let the prompts of one adapter enter, and be trained.

        Raises:
            ConfigError: Several are named, or there is none of that name.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        if len(names) != 1 or names[0] not in self._models:
            known = ", ".join(self._models)
            raise ConfigError(f"Name one adapter of {known} to be active; found {', '.join(names)}.")
        self.active_adapter = self._prompts._active_adapter = names[0]
        for name in self._models:
            self.set_requires_grad(name, name == names[0] and not inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter away; if it was active, another one is.

        Raises:
            ConfigError: There is none of that name.
        """
        if adapter_name not in self._models:
            raise ConfigError(f"There is no adapter {adapter_name!r}; there are {', '.join(self._models)}.")
        self._prompts.remove(adapter_name)
        del self.peft_config[adapter_name]
        if adapter_name in self.active_adapters:
            left = list(self._models)
            if left:
                self.set_adapter(left[0], self.peft_config[left[0]].inference_mode)
            else:
                self.active_adapter = self._prompts._active_adapter = []

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Let adapters be trained, or not."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._prompts.let_train(name, requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        self._prompts._disable_adapters = not enabled

    def _unload_and_optionally_merge(self, merge: bool = True, *arguments: object, **options: object) -> Any:
        if merge:
            raise ConfigError(
                "Prompts that depend on the input cannot be merged into weights; unload() gives the model without them."
            )
        return super()._unload_and_optionally_merge(merge=False)

    def _create_and_replace(self, *arguments: object, **options: object) -> None:
        raise NotImplementedError("Prompts replace no modules; see inject_adapter.")

    def _cast_adapter_dtype(self, *arguments: object, **options: object) -> None:
        """What is trained is in float32 always."""

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: IPTConfig,
        adapter_name: str,
        state_dict: Mapping[str, Tensor],
        unwanted_adapter_names: Sequence[str],
    ) -> dict[str, Tensor]:
        return {key: value for key, value in state_dict.items() if _key(adapter_name) in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(_key(adapter_name), _key(), 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: IPTConfig, adapter_name: str, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {key.replace(_key(), _key(adapter_name), 1): value for key, value in state_dict.items()}


_FROM_PROMPTED = (
    *("prepare", "predict", "predict_stream", "logits", "features", "collate", "parameter_groups", "spec"),
    *("tokenizer", "input_format", "strategy", "injector", "head", "temperature", "tuned_parameters", "tuned_share"),
)
"""What of the active adapter's model can be had of the whole, beside what the wrapped model has."""


def _key(adapter_name: str | None = None) -> str:
    """What the names of an adapter's tensors begin with, after what peft puts before; saved ones name no adapter."""
    return f"{PREFIX}.models." + ("" if adapter_name is None else f"{adapter_name}.")


def _backbone_of(model: nn.Module, config: IPTConfig) -> Backbone:
    """The body of a model as promptwise has it, with the same weights.

    Raises:
        ConfigError: Its tokenizer is nowhere to be found.
        BackboneError: It computes in a dtype that is not served.
    """
    import transformers

    body: Any = getattr(model, "base_model", model)
    name = getattr(model, "name_or_path", "")
    source = config.tokenizer_name_or_path or name
    if not source:
        raise ConfigError("The model does not say where it is from: name its tokenizer in tokenizer_name_or_path.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:  # tokenizers and the Hub's client each raise types of their own
        raise ConfigError(
            f"The tokenizer of {source!r} cannot be loaded ({type(error).__name__}); name its place in "
            "tokenizer_name_or_path."
        ) from error
    check_vocabulary(source, tokenizer, body.get_input_embeddings().weight.shape[0])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = body.dtype
    if dtype not in (torch.float32, torch.bfloat16):
        raise BackboneError(f"Prompts enter models in float32 or bfloat16, and {name} is in {dtype}.")
    backbone = Backbone(body, tokenizer, name, _pooling_of(name))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    backbone.set_compute_dtype(dtype)
    return backbone


def _pooling_of(name: str) -> str | None:
    """The readout that a model's folder declares, where the folder is at hand."""
    try:
        return declared_pooling(locate(name)) if name else None
    except PromptwiseError:
        return None


def _spec_of(model: nn.Module, config: IPTConfig) -> TaskSpec:
    """A task with the classes of a model.

    Raises:
        ConfigError: The model is for another problem than a single label.
    """
    names: Any = model.config
    kind = getattr(names, "problem_type", None)
    if kind not in (None, SINGLE) or names.num_labels == 1:
        raise ConfigError(
            f"IPTConfig is for {SINGLE}, and the model has problem_type {kind!r} and num_labels {names.num_labels}. "
            "Other problems are trained by PromptedModel, with --problem by `promptwise train`."
        )
    labels = config.labels or [str(names.id2label[number]) for number in range(names.num_labels)]
    return TaskSpec("peft", "Classes of texts, tokenised by the caller.", "{text}", "label", tuple(labels))


register(IPTModel)
