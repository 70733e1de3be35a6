"""Nothing enters the model: the comparison that shows what a prompt adds."""

from __future__ import annotations

from promptwise.backbones.attention_setup import use_own_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector


class NoInjector(Injector):
    """What a model without prompts has in place of an injector, whatever base its settings name."""

    def __init__(self, backbone: Backbone, length: int, instance_wise: bool) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass, when the backbone is tuned.
            use_own_attention(backbone)
        self.shape = PromptShape(0, width=0, embedding_size=backbone.embedding_size, init_scale=0.0)

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`."""
        return Injection(instance.ids.shape[0])
