"""Many tasks on one frozen model: the adapters of a folder, any mix of them in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from promptwise.backbones import placement
from promptwise.backbones.attention_setup import use_prefix_attention
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.config import PromptConfig
from promptwise.errors import BackboneError, ConfigError, PromptwiseError
from promptwise.models.attribution import Attribution
from promptwise.models.text_model import SORTED_BATCHES, checked_texts, require_several
from promptwise.models.zero_shot import ZeroShotModel
from promptwise.serving.batch import Row, run
from promptwise.serving.explanation import explain
from promptwise.serving.loading import AdapterLoader, LoadedAdapter
from promptwise.serving.settings import KEEP, KEEP_BYTES
from promptwise.serving.source import AdapterSource
from promptwise.serving.store import AdapterStore, PoolMemory
from promptwise.tasks.batching import chunks
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.problems import problem_of
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import Features, Texts

OnError = Literal["raise", "return"]
Asked = str | Texts | PromptwiseError
"""A text, a pair of texts, or why a row has none."""

HINTS = 5
"""The most unknown names of a call that get the nearest known ones, as those are looked for in all there are."""


class AdapterPool:
    """Adapters that share one frozen backbone, and its forward pass.

    Rows of a batch may belong to adapters of any strategy, base, head, length and number of labels, made for this
    backbone, and to cloze questions that are asked of the bare backbone (:meth:`add_zero_shot`). Adapters are loaded
    when they are first asked for and the least recently used ones leave; one whose files were replaced is taken up
    with the next batch, as soon as it is whole. Adapters that differ in their numbers alone run together.

    A row's answer is that of :meth:`PromptedModel.predict` of its own adapter: bit for bit in float32 where all rows of
    a batch are of one adapter, else up to the order of sums: probabilities within 5e-5 in float32 and 0.03 in
    bfloat16, whose products round elsewhere when a batch has another shape.

    Threads may share a pool. What makes batches of its own, such as a server, takes :meth:`rows` and :meth:`answers`.

    Args:
        backbone: The frozen model.
        store: The adapters.
    """

    def __init__(self, backbone: Backbone, store: AdapterStore) -> None:
        self.backbone, self.store = backbone, store

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Backbone = DEFAULT_MODEL,
        *,
        folder: str | Path | None = None,
        hub: bool = False,
        keep: int = KEEP,
        keep_bytes: int = KEEP_BYTES,
        lm_head: bool | None = None,
        fold: bool = False,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> AdapterPool:
        """Open a pool.

        Args:
            backbone: A folder, a name on the Hub, or a loaded backbone, which the pool may then serve with edits and
                prefixes.
            folder: Its sub-folders are the adapters, by their names.
            hub: Whether a name such as ``owner/name`` is an adapter on the Hub.
            keep: The most adapters that stay loaded.
            keep_bytes: The most bytes that they take together; no single one may take more.
            lm_head: Whether the language-model head is loaded, which cloze heads need; by default where there is one.
            fold: Whether what a token bias adds to each token is made once, when it is loaded, and then looked up;
                each such adapter takes layers x vocabulary x width x 2 bytes of ``keep_bytes``. Answers differ by the
                rounding to float16; see :meth:`PromptedModel.fold`.
            dtype: ``auto``, ``bf16`` or ``fp32``.
            device: Where to run; by default an accelerator if there is one.
            revision: A commit, branch or tag of the backbone on the Hub; by default its main branch.

        Raises:
            AdapterError: There is no such folder.
            ConfigError: A limit is below 1.
            BackboneError: The backbone cannot be found or read.
        """
        for name, limit in (("keep", keep), ("keep_bytes", keep_bytes)):
            if limit < 1:
                raise ConfigError(f"{name} must be at least 1, found {limit}.")
        source = AdapterSource(folder, hub)
        placed = placement.place(backbone, lm_head, dtype, device, revision=revision)
        _prepare(placed)
        return cls(placed, AdapterStore(source, AdapterLoader(placed, keep_bytes, fold), keep, keep_bytes))

    def names(self) -> list[str]:
        """All that can be asked for, sorted: the adapters of the folder and what was added."""
        return self.store.names()

    @property
    def memory(self) -> PoolMemory:
        """What the loaded adapters take, and the limits."""
        return self.store.memory

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with adapters that could not be loaded, by name; an older version of one may go on."""
        return self.store.problems

    def reload(self, name: str) -> None:
        """Read an adapter anew, whether or not its files have changed.

        Raises:
            AdapterError: It cannot be loaded; one that is in memory goes on.
        """
        self.store.reload(name)

    def adapter(self, name: str) -> LoadedAdapter:
        """An adapter, loaded if it is not; its task and its size can be read off it.

        Raises:
            AdapterError: There is none of that name, or it cannot be loaded.
        """
        return self.store.get(name)

    def add_zero_shot(
        self,
        name: str,
        task: str | TaskSpec,
        calibration: str = "contextual",
        max_length: int = PromptConfig.max_length,
    ) -> None:
        """Let a name stand for a task's cloze question to the bare backbone; it never leaves.

        Args:
            name: What it is asked for by.
            task: A task's name or spec.
            calibration: ``none``, ``domain`` or ``contextual``.
            max_length: Most tokens of an input.

        Raises:
            AdapterError: The name is taken.
            ConfigError: The task's template or words cannot work with this backbone.
            BackboneError: The backbone has no language-model head.
        """
        with self.store.loader.running, self.store.loader.encoding:
            model = ZeroShotModel.from_backbone(
                self.backbone, task=task, calibration=calibration, max_length=max_length
            )
        self.store.add(self.store.loader.zero_shot(name, model))

    @overload
    def predict(
        self, texts: Iterable[str | Texts], adapters: Iterable[str], batch_size: int = 64
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self, texts: Iterable[str | Texts], adapters: Iterable[str], batch_size: int = 64, *, on_error: OnError
    ) -> list[Prediction | PromptwiseError]: ...

    def predict(
        self,
        texts: Iterable[str | Texts],
        adapters: Iterable[str],
        batch_size: int = 64,
        *,
        on_error: OnError = "raise",
    ) -> list[Prediction] | list[Prediction | PromptwiseError]:
        """Predictions in the order of the texts, each by the adapter of the same place.

        Args:
            texts: Texts; a pair of texts is a tuple.
            adapters: A name for each text.
            batch_size: How many inputs at a time.
            on_error: ``raise`` the first error, or ``return`` it in the place of the prediction.

        Raises:
            ConfigError: There are more texts than adapters, or the other way round; or a text is none, or one where the
                task has two, or two where it has one.
            AdapterError: An adapter is unknown or cannot be loaded; names it.
            BackboneError: The scores of a text are not finite; names its place.
        """
        require_several(texts, "texts")
        require_several(adapters, "adapters")
        texts, adapters = list(texts), list(adapters)
        if len(texts) != len(adapters):
            raise ConfigError(f"{len(texts)} texts need as many adapters, a name for each; found {len(adapters)}.")
        return list(self.predict_stream(zip(texts, adapters, strict=True), batch_size, on_error=on_error))

    def predict_stream(
        self, rows: Iterable[tuple[Asked, str]], batch_size: int = 64, *, on_error: OnError = "return"
    ) -> Iterator[Prediction | PromptwiseError]:
        """As :meth:`predict`, for texts with their adapters' names, holding no more than a few batches at a time.

        An error in the place of a text, of a row that has none, is its answer.
        """
        for window in self._windows(rows, batch_size):
            yield from self._answered(window, batch_size, on_error)

    # A string is an iterable of strings too; the first of these is meant.
    @overload
    def predict_all(self, texts: str, adapters: Iterable[str], batch_size: int = 64) -> dict[str, Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def predict_all(
        self, texts: Iterable[str | Texts], adapters: Iterable[str], batch_size: int = 64
    ) -> list[dict[str, Prediction]]: ...

    def predict_all(
        self, texts: str | Iterable[str | Texts], adapters: Iterable[str], batch_size: int = 64
    ) -> dict[str, Prediction] | list[dict[str, Prediction]]:
        """What several adapters say of each text; layers that none of them touches run once for all of them.

        Inputs can be shared by adapters whose texts enter the model as the same tokens.

        Args:
            texts: One text, or several; a pair of texts is a tuple within a list.
            adapters: Names.
            batch_size: How many inputs at a time, each adapter's counted.

        Returns:
            For one text the predictions by adapter, for several a list of them.

        Raises:
            PromptwiseError: As :meth:`predict`.
        """
        single = isinstance(texts, str)
        asked: list[str | Texts] = [texts] if isinstance(texts, str) else list(texts)
        require_several(adapters, "adapters")
        names = list(dict.fromkeys(adapters))
        answers: list[dict[str, Prediction]] = [{} for _ in asked]
        # Those that touch the first layer have no layer below to share.
        deep = [name for name in names if self.adapter(name).lowest_layer != 0]
        for group in (deep, [name for name in names if name not in set(deep)]):
            pairs = [(place, name) for place in range(len(asked)) for name in group]
            rows = ((asked[place], name) for place, name in pairs)
            for (place, name), found in zip(
                pairs, self.predict_stream(rows, batch_size, on_error="raise"), strict=True
            ):
                assert isinstance(found, Prediction)
                answers[place][name] = found
        ordered = [{name: answer[name] for name in names} for answer in answers]
        return ordered[0] if single else ordered

    def rows(self, asked: Iterable[tuple[Asked, str]], first: int = 1) -> list[Row | PromptwiseError]:
        """Texts with their adapters' names as rows for :meth:`answers`, or why they are none.

        A row keeps its adapter in memory until it is dropped.

        Args:
            asked: Texts, each with the name of its adapter.
            first: The number that an error gives to the first text.
        """
        (made,) = self.rows_of([asked], first)
        return made

    def rows_of(
        self, asked: Iterable[Iterable[tuple[Asked, str]]], first: int = 1
    ) -> list[list[Row | PromptwiseError]]:
        """As :meth:`rows`, for several askers at once; an error numbers the texts of its own asker."""
        known: dict[str, LoadedAdapter | PromptwiseError] = {}
        unknown = 0
        found: list[list[Row | PromptwiseError]] = []
        texts: list[tuple[LoadedAdapter, Texts]] = []
        places: list[tuple[int, int]] = []
        for asker, of_one in enumerate(asked):
            found.append([])
            for number, (text, name) in enumerate(of_one, first):
                if isinstance(text, PromptwiseError):
                    found[asker].append(text)
                    continue
                if name not in known:
                    known[name] = self._loaded(name, hint=unknown < HINTS)
                    unknown += isinstance(known[name], PromptwiseError)
                adapter = known[name]
                if isinstance(adapter, PromptwiseError):
                    found[asker].append(adapter)
                    continue
                try:
                    texts.append((adapter, checked_texts(adapter.spec, text, number)))
                except ConfigError as error:
                    found[asker].append(error)
                    continue
                places.append((asker, len(found[asker])))
                # Its features take the place once all are tokenised.
                found[asker].append(Row(adapter, {}))
        with self.store.loader.encoding:
            encoded = _encoded(texts)
        for (asker, place), (adapter, _), features in zip(places, texts, encoded, strict=True):
            found[asker][place] = Row(adapter, features)
        return found

    def answers(self, rows: Sequence[Row]) -> list[Prediction | PromptwiseError]:
        """What comes of each row, on one forward pass of the backbone; one row that fails leaves the others alone."""
        # Adapters of a kind run through one module, which no thread may fill while another runs it.
        with self.store.loader.running:
            logits = run(self.backbone, rows)
        return [self._answer(row, of_row) for row, of_row in zip(rows, logits, strict=True)]

    def attribute(
        self, text: str | Texts, adapter: str, steps: int = 64, go_on: Callable[[], None] = lambda: None
    ) -> Attribution:
        """Which words moved what an adapter says of a text, as :func:`promptwise.attribute` tells of its model.

        Threads that ask for answers meanwhile wait for a piece of the work, never for all of it.

        Args:
            text: The text, or a pair of texts.
            adapter: Its name.
            steps: Points of the integral.
            go_on: Is called before each piece of the work, and ends it by raising.

        Raises:
            ConfigError: captum is not installed, or the text is one where the task has two, or two where it has one.
            AdapterError: The adapter is unknown or cannot be loaded.
        """
        (row,) = self.rows([(text, adapter)])
        if not isinstance(row, Row):
            raise row
        return explain(self.store.loader, row, steps, go_on)

    def _loaded(self, name: str, hint: bool = True) -> LoadedAdapter | PromptwiseError:
        try:
            return self.store.get(name, hint)
        except PromptwiseError as error:
            return error

    def _windows(self, asked: Iterable[tuple[Asked, str]], batch_size: int) -> Iterator[list[Row | PromptwiseError]]:
        """Rows in stretches of a few batches, whose adapters fit the limits together."""
        window: list[tuple[Asked, str]] = []
        names: set[str] = set()
        size = done = 0
        for text, name in asked:
            placeless = isinstance(text, PromptwiseError) or self.store.is_fixed(name)
            full = len(window) == batch_size * SORTED_BATCHES or size > self.store.keep_bytes
            if full or (not placeless and name not in names and len(names) == self.store.keep):
                yield self.rows(window, done + 1)
                done += len(window)
                window, names, size = [], set(), 0
            if not placeless and name not in names:
                loaded = self._loaded(name, hint=False)
                if isinstance(loaded, LoadedAdapter):
                    names.add(name)
                    size += loaded.bytes
            window.append((text, name))
        if window:
            yield self.rows(window, done + 1)

    def _answered(
        self, window: Sequence[Row | PromptwiseError], batch_size: int, on_error: OnError
    ) -> Iterator[Prediction | PromptwiseError]:
        """What comes of each row of a window, in order; nothing runs where an error is raised anyway."""
        answers: dict[int, Prediction | PromptwiseError] = {}
        rows: list[tuple[int, Row]] = []
        for place, one in enumerate(window):
            if isinstance(one, Row):
                rows.append((place, one))
            elif on_error == "raise":
                raise one
            else:
                answers[place] = one
        rows.sort(key=lambda item: len(item[1].features["input_ids"]))
        for batch in chunks(rows, batch_size):
            found = self.answers([row for _, row in batch])
            answers.update(zip([place for place, _ in batch], found, strict=True))
        for place in range(len(window)):
            answer = answers[place]
            if on_error == "raise" and isinstance(answer, PromptwiseError):
                raise answer
            yield answer

    def _answer(self, row: Row, logits: Tensor) -> Prediction | PromptwiseError:
        adapter = row.adapter
        if problem_of(adapter.spec).per_token:
            # Behind its own tokens stands padding.
            logits = logits[: len(row.features["input_ids"])]
        if not bool(torch.isfinite(logits).all()):
            dtype = str(self.backbone.compute_dtype).removeprefix("torch.")
            return BackboneError(
                f"The scores of the adapter {row.adapter.name!r} are not finite (NaN or infinite): "
                f"{self.backbone.name} cannot compute them in {dtype}, or weights are broken. Try --dtype fp32."
            )
        problem, labels = problem_of(adapter.spec), adapter.spec.labels
        finished = problem.finished(logits.unsqueeze(0), adapter.decoding)
        return problem.predictions(finished, [row.features], labels, adapter.decoding)[0]


def _encoded(texts: Sequence[tuple[LoadedAdapter, Texts]]) -> list[Features]:
    """The features of each text; those that enter the model in the same way are tokenised together, equal ones once."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, (adapter, _) in enumerate(texts):
        form = adapter.input_format
        groups.setdefault((form.cloze, *form.settings), []).append(place)
    features: dict[int, Features] = {}
    for places in groups.values():
        form = texts[places[0]][0].input_format
        distinct = list(dict.fromkeys(texts[place][1] for place in places))
        made = dict(zip(distinct, form.encode(distinct), strict=True))
        features.update((place, made[texts[place][1]]) for place in places)
    return [features[place] for place in range(len(texts))]


def _prepare(backbone: Backbone) -> None:
    """Let prefixes and edits enter wherever they can, so that no adapter that comes later changes the model."""
    if not backbone.is_shared:
        raise ConfigError(
            f"{backbone.name} is or will be tuned by one model; a pool needs a backbone that is frozen. Name the model "
            "instead of a loaded backbone."
        )
    for serve in (use_prefix_attention, Backbone.serve_edits):
        try:
            serve(backbone)
        except BackboneError:
            # Adapters that need it are refused by name.
            continue
