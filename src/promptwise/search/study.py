"""The study of a search in its folder: which trial is next, and what became of those whose process was killed."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from promptwise.config.settings import flag_name
from promptwise.errors import OutputError, ResumeError
from promptwise.search.sampler import SeededByPlace

STORAGE = "study.db"
NAME = "search"
"""Every folder has one study, of this name: Hyperband's brackets depend on it, and a folder may be renamed."""

RETRIES = 2
"""How often a trial whose process was killed is tried again: one that needs too much memory would be for ever.

Ctrl-C does not count.
"""

ERROR = "error"
THREADS = "threads"
SECONDS = "seconds"
_IDENTITY = "promptwise"
_INTERRUPTED = "interrupted"
_LOCK = ".study.lock"
_WAIT_FOR_SQLITE_S = 120


@dataclass(frozen=True)
class Terms:
    """What all processes of a study agree on.

    Attributes:
        metric: The name of the score.
        maximize: Whether more of it is better.
        seed: The seed of the sampler.
        most_epochs: The most epochs of a trial, Hyperband's largest budget.
        trials: How many trials the study shall have.
    """

    metric: str
    maximize: bool
    seed: int
    most_epochs: int
    trials: int


class SharedStudy:
    """A study that any number of processes work on, each of which asks for its next trial.

    One process at a time chooses a trial. A trial's process holds a lock as long as it lives, so a trial that runs and
    whose lock is free was killed: it is marked as failed and is tried again.

    Args:
        folder: The study's folder.
        terms: What all processes agree on.

    Raises:
        OutputError: The storage cannot be opened.
    """

    def __init__(self, folder: Path, terms: Terms) -> None:
        self.folder, self.terms = folder, terms
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        with self._alone(), self.storage_errors():
            self.study = optuna.create_study(
                storage=_open(folder / STORAGE),
                study_name=NAME,
                direction="maximize" if terms.maximize else "minimize",
                sampler=SeededByPlace(terms.seed, self._place),
                pruner=optuna.pruners.HyperbandPruner(max_resource=max(1, terms.most_epochs)),
                load_if_exists=True,
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial, those whose place another one took included."""
        with self.storage_errors():
            return self.study.get_trials(deepcopy=False)

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials of the study: of one that was tried again, the last try."""
        trials = self.trials
        replaced = _replaced(trials)
        return [trial for trial in trials if trial.number not in replaced]

    @property
    def best(self) -> FrozenTrial | None:
        """The finished trial with the best score, the earliest of equal ones; those that were pruned take no part."""
        sign = 1 if self.terms.maximize else -1
        done = [trial for trial in self.counted if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)

    def agree(self, identity: Mapping[str, Any]) -> None:
        """Make sure that the study is about these trials; a new one is about them from now on.

        Args:
            identity: What the score of a trial depends on; a mapping for each kind of thing, by name.

        Raises:
            ResumeError: It is about others; names what differs.
            OutputError: It was not made by a search.
        """
        with self._alone(), self.storage_errors():
            before = self.study.user_attrs.get(_IDENTITY)
            if before is None and self.study.trials:
                raise OutputError(
                    f"{self.folder / STORAGE} holds a study that `promptwise search` did not make. Use another --out."
                )
            if before is None:
                self.study.set_user_attr(_IDENTITY, identity)
                return
        changed = _differences(before, identity)
        if changed:
            raise ResumeError(
                f"{self.folder} holds a study of other trials: {'; '.join(changed)}. Give the same, or use another "
                "--out."
            )

    @contextlib.contextmanager
    def next_trial(self) -> Iterator[Trial | None]:
        """The next trial to do, held until the end; ``None`` when the study has as many as it shall have."""
        with self._alone(), self.storage_errors():
            self._take_up_killed()
            trial = self._asked()
            lock = None if trial is None else self._trial_lock(trial.number)
            if lock is not None:
                lock.acquire()
        try:
            yield trial
        finally:
            if lock is not None:
                lock.release()

    def tell(self, trial: Trial, value: float | None = None, pruned: bool = False) -> FrozenTrial:
        """Record how a trial ended: with a score, pruned, or failed where there is neither."""
        state = TrialState.PRUNED if pruned else TrialState.FAIL if value is None else TrialState.COMPLETE
        with self.storage_errors():
            told = self.study.tell(trial, value, state)
        shutil.rmtree(self.run_folder(trial), ignore_errors=True)
        return told

    def run_folder(self, trial: Trial | FrozenTrial) -> Path:
        """The folder of a trial's checkpoints; one that is tried again goes on with what its first process left."""
        return self._runs / str(_first_try(trial))

    def running_elsewhere(self) -> list[int]:
        """The trials that other processes are doing."""
        with self._alone():
            return [trial.number for trial in self.trials if self._is_alive(trial)]

    def has_more(self) -> bool:
        """Whether there is a trial to start, or one to start again."""
        with self._alone():
            trials = self.trials
            killed = [one for one in trials if one.state == TrialState.RUNNING and not self._is_alive(one)]
            waiting = [one for one in trials if one.state == TrialState.WAITING]
        return bool(killed or waiting) or len(self.counted) < self.terms.trials

    @contextlib.contextmanager
    def concluding(self) -> Iterator[None]:
        """Let one process at a time draw the conclusion of a study that ended."""
        with FileLock(self.folder / ".conclusion.lock"):
            with self._alone():
                # A command that wants more trials may have begun one.
                if not any(self._is_alive(trial) for trial in self.trials):
                    shutil.rmtree(self._runs, ignore_errors=True)
            yield

    @property
    def _runs(self) -> Path:
        return self.folder / "trials"

    def _trial_lock(self, number: int) -> FileLock:
        self._runs.mkdir(parents=True, exist_ok=True)
        return FileLock(self._runs / f"{number}.lock", timeout=0)

    def _is_alive(self, trial: FrozenTrial) -> bool:
        """Whether a process is at work on a trial."""
        if trial.state != TrialState.RUNNING:
            return False
        try:
            with self._trial_lock(trial.number):
                return False
        except Timeout:
            return True

    def _take_up_killed(self) -> None:
        """Mark trials as failed whose process is gone, and have them tried again."""
        interrupted = set(self.study.user_attrs.get(_INTERRUPTED, ()))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_alive(trial):
                tries = {*RetryHeartbeatStaleTrialCallback.retry_history(trial), trial.number}
                again = RetryHeartbeatStaleTrialCallback(max_retry=RETRIES + len(tries & interrupted))
                again(self.study, self.study.tell(trial.number, state=TrialState.FAIL))

    def interrupted(self) -> None:
        """Note that a person stopped the trials that no process is at work on now: they used up no retry."""
        with self._alone(), self.storage_errors():
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            stopped = {trial.number for trial in running if not self._is_alive(trial)}
            before = self.study.user_attrs.get(_INTERRUPTED, ())
            self.study.set_user_attr(_INTERRUPTED, sorted({*before, *stopped}))

    def _asked(self) -> Trial | None:
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and len(self.counted) >= self.terms.trials:
            return None
        return self.study.ask()

    def _place(self, number: int) -> int:
        """The number that a trial would have if none had been killed."""
        return number - sum(replaced < number for replaced in _replaced(self.study.get_trials(deepcopy=False)))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from choosing a trial."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise OutputError(
                f"{self.folder} cannot be written: {getattr(error, 'strerror', None) or error}. Use another --out."
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Say in words what goes wrong with the storage."""
        file = self.folder / STORAGE
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            reason = str(getattr(error, "orig", None) or error.__cause__ or error).partition("\n")[0]
            raise OutputError(
                f"The study {file} cannot be read or written ({reason}). Make room, move the file away if it is no "
                "study, or use another --out."
            ) from error


def _open(file: Path) -> optuna.storages.RDBStorage:
    url = sqlalchemy.URL.create("sqlite", database=str(file.resolve())).render_as_string(hide_password=False)
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAIT_FOR_SQLITE_S}})
    except RuntimeError as error:
        raise OutputError(
            f"{file} was written by another version of Optuna ({str(error).splitlines()[0]}); this is "
            f"{optuna.__version__}. Run: optuna storage upgrade --storage {url}, or use another --out."
        ) from error


def _replaced(trials: Sequence[FrozenTrial]) -> set[int]:
    """The trials that were tried again."""
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def _first_try(trial: Trial | FrozenTrial) -> int:
    """The number that a trial had when it was tried first."""
    frozen = trial if isinstance(trial, FrozenTrial) else trial.study.trials[trial.number]
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(frozen)
    return frozen.number if first is None else first


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two identities do not share, in words."""
    changed = []
    for kind in ("space", "settings"):
        then, given = before.get(kind, {}), now.get(kind, {})
        for name in dict.fromkeys((*then, *given)):
            if then.get(name) != given.get(name):
                called = f"--space {name}" if kind == "space" else flag_name(name)
                was, is_ = (one.get(name, "left out") for one in (then, given))
                changed.append(f"{called} was {was} and is {is_}")
    changed += [
        f"the {name} was {str(value)[:16]} and is {str(now['conditions'].get(name))[:16]}"
        for name, value in before.get("conditions", {}).items()
        if value != now["conditions"].get(name)
    ]
    return changed
