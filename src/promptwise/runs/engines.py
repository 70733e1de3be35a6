"""Where runs are done: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from promptwise.config.choices import ENGINES
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.runs.processes import default_threads, device_count
from promptwise.runs.workers import LocalWorkers, Workers


@dataclass(frozen=True)
class EngineChoice:
    """What a person says about where runs are done.

    Attributes:
        engine: ``local`` or ``ray``.
        jobs: The most runs side by side; by default one for each GPU of this machine, or what the cluster has room for.
        threads: CPU threads of each; by default the cores shared out, and one on Ray, where they are the CPUs that a
            run declares.
        gpus_per_run: The GPUs of each, between 0 for none and 1; a fraction packs several runs on one. By default a
            whole one where there are GPUs.
        address: A running Ray cluster; without it Ray is started on this machine.

    Raises:
        UnknownNameError: There is no such engine.
        ConfigError: The values do not fit together, or Ray is not installed.
    """

    engine: str = "local"
    jobs: int | None = None
    threads: int | None = None
    gpus_per_run: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UnknownNameError("--engine", self.engine, ENGINES)
        if self.gpus_per_run is not None and not 0 <= self.gpus_per_run <= 1:
            raise ConfigError(
                f"--gpus-per-run is {self.gpus_per_run:g}; a run uses one GPU or a part of one: give 0 to 1, such as "
                "0.25 for four runs on each."
            )
        if self.engine == "local" and self.address is not None:
            raise ConfigError("--address names a Ray cluster; add --engine ray, or leave it out.")
        if self.engine == "ray" and importlib.util.find_spec("ray") is None:
            raise ConfigError("`--engine ray` needs Ray: pip install 'promptwise[ray]'.")

    def workers(self) -> Workers:
        """Workers as they are wanted; on Ray this joins the cluster, which they leave as a context manager.

        Raises:
            ConfigError: The cluster does not answer, or nothing has the GPUs that are asked for.
        """
        if self.engine == "ray":
            from promptwise.runs.ray_workers import RayWorkers

            return RayWorkers(self.address, self.jobs, self.threads or 1, self.gpus_per_run)
        devices = 0 if self.gpus_per_run == 0 else device_count()
        if self.gpus_per_run and not devices:
            raise ConfigError(
                f"--gpus-per-run {self.gpus_per_run:g} asks for a GPU, and CUDA sees none on this machine. Leave it "
                "out; `nvidia-smi` shows the GPUs, and CUDA_VISIBLE_DEVICES may hide them."
            )
        jobs = self.jobs or max(1, devices * int(1 / (self.gpus_per_run or 1)))
        return LocalWorkers(jobs, self.threads or default_threads(jobs), devices=self.gpus_per_run != 0)

    def expected_jobs(self) -> int:
        """The runs side by side as far as this is known without a cluster, by which a time is estimated."""
        return (self.jobs or 1) if self.engine == "ray" else self.workers().jobs
