"""A language-model head and low-rank updates in one small safetensors file, put on top of an encoder when it is loaded.

``r`` is the rank of an update; a matrix ``[out, in]`` becomes ``W + scale * B A`` (Hu et al. 2021, equation 3) with
``A`` ``[r, in]`` and ``B`` ``[out, r]``, as peft names and computes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from promptwise.errors import BackboneError
from promptwise.tensor_file import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

    from promptwise.backbones.backbone import Backbone

WEIGHTS_FILE = "cloze.safetensors"
EMBEDDED = {"minilm-cloze": "d9e9428de2ebb651a2d0d40e52e707e04df1378904a78965ad22a0bd4f232d3c"}
"""The models whose weights come with the package, and the sha256 of their file."""

_FILE = TensorFile(
    "promptwise_cloze",
    1,
    "promptwise pretrain cloze",
    BackboneError,
    needed=("base_model", "base_fingerprint", "scale"),
)
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class ClozeWeights:
    """What turns an encoder into a masked language model.

    Attributes:
        base_model: The encoder's name.
        base_fingerprint: Fingerprint of its body.
        scale: Factor of the updates.
        tensors: Updates by the names of their modules in the base model with ``.lora_A.weight`` and
            ``.lora_B.weight``, everything else by its name in the whole model.
        digest: sha256 of the file.
    """

    base_model: str
    base_fingerprint: str
    scale: float
    tensors: Mapping[str, Tensor]
    digest: str

    def merge_into(self, backbone: Backbone) -> None:
        """Change an encoder in place; its fingerprints become those of the encoder and this file together.

        Raises:
            BackboneError: It is another encoder, or the tensors do not fit it.
        """
        import torch

        if backbone.fingerprint != self.base_fingerprint:
            raise BackboneError(
                f"These cloze weights were made for {self.base_model} (fingerprint {self.base_fingerprint[:16]}), but "
                f"{backbone.name} has fingerprint {backbone.fingerprint[:16]}."
            )
        body, whole = dict(backbone.base.named_parameters()), dict(backbone.model.named_parameters())
        try:
            with torch.no_grad():
                for name, value in self.tensors.items():
                    if name.endswith(_A):
                        module = name.removesuffix(_A)
                        update = self.tensors[module + _B].float() @ value.float()
                        weight = body[module + ".weight"]
                        # A model that is stored in a narrow dtype would lose most of the update.
                        weight.data = weight.float() + self.scale * update
                    elif not name.endswith(_B):
                        whole[name].data = value.float().reshape_as(whole[name])
        except (KeyError, RuntimeError) as error:
            raise BackboneError(f"These cloze weights do not fit {backbone.name}: {error}") from error
        # The merged numbers may differ in the last bit from one processor to another, so they are not hashed.
        backbone.fingerprint = _joined(self.base_fingerprint, self.digest)
        backbone.lm_fingerprint = _joined("head", self.digest)


def find_cloze_weights(name: str) -> ClozeWeights | None:
    """The cloze weights that a model name stands for, embedded ones or a folder's; ``None`` for other models.

    A folder with the name of an embedded model is meant by ``./NAME``.

    Raises:
        BackboneError: The file was altered, or cannot be read.
    """
    if name not in EMBEDDED:
        file = Path(name).expanduser() / WEIGHTS_FILE
        return read_cloze_weights(file) if name and file.is_file() else None
    with as_file(files("promptwise.backbones").joinpath("weights", name, WEIGHTS_FILE)) as file:
        weights = read_cloze_weights(file)
    if weights.digest != EMBEDDED[name]:
        raise BackboneError(
            f"The weights of {name} have sha256 {weights.digest}, but {EMBEDDED[name]} is expected; they were altered, "
            "so they are not loaded. Install promptwise again."
        )
    return weights


def read_cloze_weights(file: Path) -> ClozeWeights:
    """Read a file.

    Raises:
        BackboneError: It cannot be read, or is of another format.
    """
    about, tensors, digest = _FILE.read(file)
    return ClozeWeights(about["base_model"], about["base_fingerprint"], about["scale"], tensors, digest)


def write_cloze_weights(
    file: Path, base_model: str, base_fingerprint: str, scale: float, tensors: Mapping[str, Tensor]
) -> str:
    """Write a file in float16, whole or not at all, and return its sha256.

    Raises:
        BackboneError: A number is too large for float16.
        OutputError: The file cannot be written.
    """
    import torch

    narrow = {name: value.detach().cpu().to(torch.float16) for name, value in tensors.items()}
    wide = [name for name, value in narrow.items() if not torch.isfinite(value).all()]
    if wide:
        raise BackboneError(f"{wide[0]} has numbers beyond float16's largest, 65,504; train with a lower --lr.")
    about = {"base_model": base_model, "base_fingerprint": base_fingerprint, "scale": scale}
    return _FILE.write(file, about, narrow)


def _joined(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
