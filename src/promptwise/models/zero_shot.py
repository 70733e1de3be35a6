"""Cloze questions to the frozen model alone: nothing is tuned, and words that are likely anyway are discounted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.hub import DEFAULT_CLOZE_MODEL
from promptwise.backbones.placement import place
from promptwise.config import CALIBRATIONS, PromptConfig
from promptwise.core.instance import Instance
from promptwise.errors import BackboneError, UnknownNameError
from promptwise.heads.cloze import ClozeHead
from promptwise.models.input_format import input_format_for
from promptwise.models.text_model import TextModel
from promptwise.tasks.examples import Example
from promptwise.tasks.problems import require_single
from promptwise.tasks.spec import TaskSpec, load_spec
from promptwise.tasks.template import require_mask_last

CONTENT_FREE = {"none": (), "domain": ("",), "contextual": ("N/A", "", "[MASK]")}
"""Texts without content, by calibration: the empty text, and those of Zhao et al. (2021)."""


class ZeroShotModel(TextModel):
    """A task's template and label words on a frozen model; the prompt is words alone.

    A label's score is its cloze score (the mean logit of its words, see :class:`ClozeHead`) minus the log of its
    probability among the labels when the text says nothing. With ``domain`` the text is empty: the idea of
    domain-conditional PMI (Holtzman et al. 2021), with the empty template as domain premise. With ``contextual`` the
    probability is the mean over three texts without content: the idea of contextual calibration (Zhao et al. 2021).
    For labels of one word both choose the label that the papers' formulas choose; probabilities are the softmax of
    the scores.

    Args:
        backbone: The frozen model with its language-model head.
        spec: The task.
        calibration: ``none``, ``domain`` or ``contextual``.
        max_length: Most tokens of an input; longer texts are cut.

    Raises:
        ConfigError: The task's template or words cannot work with this backbone.
        BackboneError: The backbone is not frozen, or was loaded without its language-model head, or that is not known.
        UnknownNameError: There is no such calibration.
    """

    prior: Tensor

    def __init__(
        self,
        backbone: Backbone,
        spec: TaskSpec,
        calibration: str = "contextual",
        max_length: int = PromptConfig.max_length,
    ) -> None:
        super().__init__()
        require_single(spec, "A zero-shot question")
        if calibration not in CALIBRATIONS:
            raise UnknownNameError("calibration", calibration, CALIBRATIONS)
        if not backbone.is_shared:
            raise BackboneError(
                f"{backbone.name} is or will be tuned by one model; zero-shot questions are for the frozen model "
                "alone. Name the model instead of a loaded backbone."
            )
        if not backbone.has_lm_head:
            raise BackboneError("Zero-shot questions need a backbone that was loaded with lm_head=True.")
        if backbone.kind == "decoder":
            require_mask_last(spec, backbone.name)
        self.backbone, self.spec = backbone, spec
        self.head = ClozeHead(backbone, spec)
        self.input_format = input_format_for(backbone, spec, max_length, cloze=True, reserved=0)
        self.input_format.check(0, backbone.max_positions, backbone.name)
        self.register_buffer("prior", torch.zeros(len(spec.labels)))
        self.to(backbone.device)
        self.eval()
        self.prior = self._prior(calibration)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Backbone = DEFAULT_CLOZE_MODEL,
        *,
        task: str | TaskSpec,
        calibration: str = "contextual",
        max_length: int = PromptConfig.max_length,
        dtype: str = "auto",
        device: str | torch.device | None = None,
    ) -> ZeroShotModel:
        """Ask a backbone a task's question.

        Args:
            backbone: A folder, a name on the Hub, ``minilm-cloze``, or a loaded backbone.
            task: A task's name or spec.
            calibration: ``none``, ``domain`` or ``contextual``.
            max_length: Most tokens of an input.
            dtype: ``auto``, ``bf16`` or ``fp32``.
            device: Where to run; by default an accelerator if there is one.
        """
        spec = load_spec(task) if isinstance(task, str) else task
        return cls(place(backbone, True, dtype, device), spec, calibration, max_length)

    def hidden(self, instance: Instance) -> Tensor:
        """See :meth:`TextModel.hidden`; nothing is put before or into the model."""
        return self.backbone.run(instance)

    def scores(self, instance: Instance, hidden: Tensor, mask_position: Tensor | None) -> Tensor:
        """See :meth:`TextModel.scores`; calibrated."""
        return super().scores(instance, hidden, mask_position) - self.prior

    def _prior(self, calibration: str) -> Tensor:
        """Log probability of each label ``[C]`` when the text says nothing, to be called without a prior."""
        texts: Sequence[str] = CONTENT_FREE[calibration]
        if not texts:
            return torch.zeros_like(self.prior)
        paired = self.spec.text_pair is not None
        examples = [Example(text, text if paired else None, 0) for text in texts]
        probabilities = torch.softmax(self.logits(self.features(examples)), dim=-1)
        return probabilities.mean(0).log().to(self.device)
