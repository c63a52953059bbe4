"""Metrics for MLflow: every value as `<split>/<name>` over the run's steps, the resolved recipe as an artifact.

Where no server is named it writes to `<run folder>/mlflow/runs.db`, which `mlflow ui --backend-store-uri sqlite:///...`
shows. A resumed run goes on under its id.
Source: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from wavalign.plugins.api import Tracker
from wavalign.plugins.tracking import TrackedRun, named, package
from wavalign.schema.base import Params

FORBIDDEN = re.compile(r"[^\w\-. /:]")
"""Letters that names of metrics may not have at MLflow."""


@final
class MlflowParams(Params):
    """Options of the tracker `mlflow`. Credentials come from the environment, never from a recipe."""

    uri: str | None = None
    """Tracking server or database; None takes MLFLOW_TRACKING_URI, else a database in the run's folder."""
    experiment: str = "wavalign"
    """Experiment the run belongs to; made when missing."""
    name: str | None = None
    """Name of the run; None takes recipe and folder."""


@final
class Mlflow(Tracker):
    """Opens the run with its first value."""

    Params = MlflowParams
    params: MlflowParams

    def __init__(self, params: MlflowParams, *, folder: str) -> None:
        """Raise PluginError when mlflow is not installed."""
        super().__init__(params, folder=folder)
        self._mlflow = package("mlflow", tracker="mlflow")
        self._tracked = TrackedRun(folder, "mlflow")
        self._known = self._tracked.is_kept
        self._client: Any = None

    def resume(self, last: Mapping[str, int]) -> None:
        """Leave out steps that are there."""
        self._tracked.resume()

    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Send `values` at `step`."""
        if self._tracked.is_there(split, step):
            return
        if self._client is None:
            self._client = self._open()
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(FORBIDDEN.sub("_", name), value, now, step)
            for name, value in named(values, split).items()
        ]
        self._client.log_batch(self._tracked.run_id, metrics=metrics)
        self._tracked.logged(split, step)

    def close(self) -> None:
        """Say that the run is over."""
        if self._client is not None:
            self._client.set_terminated(self._tracked.run_id)
            self._client = None

    def _open(self) -> Any:
        uri, own = self.params.uri or os.environ.get("MLFLOW_TRACKING_URI"), Path(self.folder).absolute() / "mlflow"
        if uri is None:
            own.mkdir(exist_ok=True)
        client = self._mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{own / 'runs.db'}")
        if self._known:
            client.update_run(self._tracked.run_id, status="RUNNING")
            return client
        experiment = client.get_experiment_by_name(self.params.experiment)
        if experiment is None:
            place = None if uri is not None else (own / "files").as_uri()
            number = client.create_experiment(self.params.experiment, artifact_location=place)
        else:
            number = experiment.experiment_id
        run = client.create_run(number, run_name=self.params.name or self._tracked.name)
        self._tracked.keep(run.info.run_id)
        recipe = Path(self.folder) / "recipe.resolved.yaml"
        if recipe.exists():
            client.log_artifact(run.info.run_id, str(recipe))
        return client
