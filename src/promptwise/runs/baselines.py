"""What a run is to be compared with: methods that need no prompt, on its data and its frozen backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from promptwise.config import ModelConfig
from promptwise.config.composition import values_of, without_useless
from promptwise.errors import ConfigError
from promptwise.registry import HEADS
from promptwise.training.launcher import process_count
from promptwise.training.run_metrics import Baseline

if TYPE_CHECKING:
    from torch import Tensor

    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.data import TaskData
    from promptwise.tasks.examples import Example

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Values of ``C`` of the logistic regression, the strongest regularisation first."""


def check_baselines() -> None:
    """Refuse what cannot work before anything is trained.

    Raises:
        ConfigError: scikit-learn is missing, or several processes train.
    """
    try:
        import sklearn  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise ConfigError("--baselines needs scikit-learn: pip install 'promptwise[baselines]'.") from error
    processes = process_count()
    if processes > 1:
        raise ConfigError(f"--baselines works in one process, and there are {processes}. Leave it out.")


def probe_config(config: ModelConfig) -> ModelConfig:
    """The linear probe of a run: its settings without any prompt and tuning, at the probe's own learning rate."""
    values = values_of(config)
    if HEADS.get(config.head).cloze:
        values["head"] = "classifier"
    values |= {"strategy": "none", "tune": "none", "tune_backbone": False}
    # The kept states are those of a layer that the prompts of the run enter, and a probe has none.
    values |= dict.fromkeys(("lr", "start_from", "states_cache", "out"))
    return type(config)(**without_useless(type(config), values))


def run_baselines(config: ModelConfig, model: PromptedModel, data: TaskData, progress: bool = True) -> list[Baseline]:
    """Train and score what a run is compared with.

    They are the linear probe (the run's own trainer, and no prompt), logistic regression on the frozen backbone's
    states, whose mean over a text's tokens is its embedding, with the ``C`` that is best on validation, and the class
    that is most frequent in training. The probe is left out where the run is one itself.

    Args:
        config: The run's settings.
        model: Its model; only its backbone is used, and nothing is changed.
        data: The task's splits.
        progress: Show progress bars.
    """
    from promptwise.backbones.placement import prepare_backbone
    from promptwise.models.prompted import PromptedModel
    from promptwise.training.fit import fit

    plain = probe_config(config)
    backbone = model.backbone
    if config.changes_backbone:
        backbone = prepare_backbone(config.model, False, config.dtype, revision=config.revision)
    probe = PromptedModel(backbone, data.spec, plain.prompt_config(), plain.seed)
    found = []
    if config.has_prompt or config.changes_backbone:
        metrics = fit(probe, data, plain.fit_config(), progress=progress, calibrate=False)
        found.append(
            Baseline(
                "linear probe",
                metrics.validation,
                metrics.test,
                f"learning rate {metrics.config['lr']:g}",
                metrics.parameters.tuned,
                metrics.time.total_s,
            )
        )
    logistic = _logistic_regression(probe, data, balanced=config.class_weights == "balanced", progress=progress)
    return [*found, *logistic, _majority_class(data)]


def _logistic_regression(model: PromptedModel, data: TaskData, balanced: bool, progress: bool) -> list[Baseline]:
    """Logistic regression on embeddings; none where training has one class alone, which it cannot be fitted on."""
    from promptwise.tasks.examples import labels_of
    from promptwise.training.scoring import score_choices

    labels = labels_of(data.train)
    if len(set(labels)) == 1:
        return []
    began = time.perf_counter()
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    seen = {
        name: embeddings(model, rows, f"embedding {name}" if progress else None).numpy()
        for name, rows in splits.items()
    }
    metric = data.choosing_metric()

    def scores(fitted: Any, split: str) -> dict[str, float]:
        return score_choices(data.spec, splits[split], fitted.predict(seen[split]).tolist())

    def value(fitted: Any) -> float:
        return metric.merit(scores(fitted, "validation")[metric.name])

    best = chosen_regression(seen["train"], labels, value, balanced)
    return [
        Baseline(
            "logistic regression",
            scores(best, "validation"),
            scores(best, "test"),
            f"C {best.C:g}",
            int(best.coef_.size + best.intercept_.size),
            time.perf_counter() - began,
        )
    ]


def chosen_regression(seen: Any, labels: Sequence[int], value: Callable[[Any], float], balanced: bool = False) -> Any:
    """scikit-learn's logistic regression with the ``C`` of :data:`STRENGTHS` that has the greatest value.

    Args:
        seen: ``[N, H]`` embeddings of training rows.
        labels: ``[N]`` their classes.
        value: Of a fitted one, on rows that were held out.
        balanced: Whether classes weigh alike.
    """
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if balanced else None
    fitted = [LogisticRegression(C=one, max_iter=1000, class_weight=weight).fit(seen, labels) for one in STRENGTHS]
    # The first of equal ones, which has the strongest regularisation.
    return max(fitted, key=value)


def _majority_class(data: TaskData) -> Baseline:
    """Always the class that training has most of; the first of equal ones."""
    from promptwise.tasks.examples import labels_of
    from promptwise.training.scoring import score_choices

    labels = labels_of(data.train)
    most = max(range(len(data.spec.labels)), key=labels.count)
    validation, test = (score_choices(data.spec, rows, [most] * len(rows)) for rows in (data.validation, data.test))
    return Baseline("majority class", validation, test, data.spec.labels[most], 0, 0.0)


def embeddings(
    model: PromptedModel, examples: Sequence[Example], progress: str | None = None, batch_size: int = 64
) -> Tensor:
    """The mean of the backbone's last hidden states over the real tokens of each text ``[N, H]``, on the CPU.

    Args:
        model: Says how texts enter the backbone; its prompt takes no part.
        examples: Rows.
        progress: Title of a progress bar, which shows once it takes more than two seconds.
        batch_size: How many at a time.
    """
    import torch
    from tqdm.auto import tqdm

    from promptwise.core.instance import masked_mean
    from promptwise.tasks.batching import by_length, chunks

    rows = model.features(examples)
    found = torch.empty(len(rows), model.backbone.hidden_size)
    model.eval()
    with (
        torch.inference_mode(),
        tqdm(total=len(rows), desc=progress, unit="row", delay=2, disable=progress is None) as bar,
    ):
        for indices in chunks(by_length(rows), batch_size):
            batch = model.collate([rows[index] for index in indices])
            batch.pop("labels", None)
            instance, _ = model.aligned(**{key: value.to(model.device) for key, value in batch.items()})
            hidden = model.backbone.run(instance)
            found[indices] = masked_mean(hidden.float(), instance.mask).cpu()
            bar.update(len(indices))
    return found
