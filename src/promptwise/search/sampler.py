"""Optuna's sampler with random numbers of each trial's own: a search that was stopped goes on as it would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

_STRIDE = 1_000_003


class SeededByPlace(BaseSampler):
    """Optuna's TPE, whose random numbers for a trial depend on the seed and on the trial's place alone.

    TPE has one stream of random numbers for all trials of a process, and a storage does not keep it: a process that
    goes on with a study would draw those of the first trials once more, as would a second process beside it.

    Args:
        seed: The seed of the study.
        place_of: The place of a trial by its number.
    """

    def __init__(self, seed: int, place_of: Callable[[int], int]) -> None:
        self.seed, self.place_of = seed, place_of
        self._made: tuple[int, TPESampler] | None = None

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if self._made is None or self._made[0] != trial.number:
            seed = (self.seed * _STRIDE + self.place_of(trial.number)) % 2**32
            self._made = trial.number, TPESampler(seed=seed)
        return self._made[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See ``BaseSampler.before_trial``."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler.infer_relative_search_space``."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler.sample_relative``."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``BaseSampler.sample_independent``."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See ``BaseSampler.after_trial``."""
        self._of(trial).after_trial(study, trial, state, values)
