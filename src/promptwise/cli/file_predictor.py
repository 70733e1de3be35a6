"""The predictions of one file, read as they are needed and written whole or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.cli.adapter_use import input_texts, load_for_use, write_predictions
from promptwise.cli.kept_columns import KeptColumns
from promptwise.files import unfinished
from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE, adapter_folder

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel


@dataclass(frozen=True)
class FilePredictor:
    """How the predictions of a file are made.

    Attributes:
        adapter: Folder of the adapter, or its name on the Hub.
        model: Where to load the backbone from.
        dtype: As in ``load_for_use``; so are the next two.
        threads: See there.
        fold: See there.
        batch_size: Inputs at a time.
        form: ``jsonl`` or ``csv``.
        abstain_below: As in ``write_predictions``.
        text_column: Column of the text; by default as the adapter was trained.
        text_pair_column: Column of the second text, likewise.
        with_columns: As in :class:`KeptColumns`.
    """

    adapter: str
    model: str | None
    dtype: str
    threads: int | None
    fold: bool
    batch_size: int
    form: str
    abstain_below: float | None
    text_column: str | None
    text_pair_column: str | None
    with_columns: str | None = None

    def load(self) -> PromptedModel:
        """The adapter on its backbone."""
        return load_for_use(self.adapter, self.model, self.dtype, self.threads, self.fold)

    def predict(self, model: PromptedModel, source: Path, out: Path) -> None:
        """Write the predictions of a file, whole or not at all.

        Raises:
            DataError: The file is broken, or lacks a column.
            OutputError: They cannot be written.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in unfinished(out):
            # Of a process that was killed.
            left.unlink(missing_ok=True)
        kept = KeptColumns(self.with_columns)
        texts = input_texts(model.spec.to_dict(), (), (), source, self.text_column, self.text_pair_column, kept)
        predictions = model.predict_stream(texts, self.batch_size)
        write_predictions(predictions, model.spec, self.form, out, self.abstain_below, kept)

    def about(self) -> dict[str, Any]:
        """What the predictions depend on, as JSON."""
        apart = ("adapter", "model", "threads", "batch_size")
        settings = {name: value for name, value in asdict(self).items() if name not in apart}
        folder = adapter_folder(self.adapter)
        digest = hashlib.sha256()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            digest.update((folder / name).read_bytes())
        return {"adapter": digest.hexdigest(), **settings}
