"""Writers of metrics: TensorBoard, Weights & Biases, Trackio, or one of your own, by name.

metrics.jsonl is written in any case. A writer takes the same scalars; one that fails is told of
once and left out from there on, and training goes on.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from jaxdml import _lazy


class Writer(Protocol):
  """Takes the scalars of a run, a step at a time."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes the scalars of one step."""

  def close(self) -> None:
    """Ends; everything is written."""


Make = Callable[[pathlib.Path, Mapping[str, Any], int | None], Writer]
"""(workdir, config as nested dicts, the step gone on from or None) -> writer."""


class _TensorBoard:
  """Event files in the workdir; steps that run again replace what was written of them."""

  def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any], resumed: int | None):
    del config
    from tensorboardX import SummaryWriter

    before = any(workdir.glob("events.out.tfevents.*"))
    purged = (-1 if resumed is None else resumed) + 1
    # Files are named by the second: two starts within one would share a name.
    self._events = SummaryWriter(
      str(workdir), purge_step=purged if before else None, filename_suffix=f".{purged}"
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    self._events.close()


class _Wandb:
  """A run of the project "jaxdml", or $WANDB_PROJECT; $WANDB_MODE=offline needs no network."""

  def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any], resumed: int | None):
    import wandb

    identity = _identity(workdir, "wandb", resumed)
    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT", "jaxdml"),
      name=workdir.name,
      id=identity,
      resume="allow",
      dir=str(workdir),
      config=dict(config),
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    self._run.finish()


class _Trackio:
  """A run of the project "jaxdml" on this machine, in $TRACKIO_DIR; `trackio show` draws it."""

  def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any], resumed: int | None):
    import trackio

    name = f"{workdir.name}-{_identity(workdir, 'trackio', resumed)}"
    self._run = trackio.init(project="jaxdml", name=name, resume="allow", config=dict(config))

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    self._run.finish()


def _identity(workdir: pathlib.Path, writer: str, resumed: int | None) -> str:
  """The name of the run there: a run that goes on has the one that it began with."""
  path = workdir / f"{writer}.id"
  if resumed is None or not path.is_file():
    path.write_text(uuid.uuid4().hex[:8])
  return path.read_text()


_KNOWN: dict[str, tuple[str, Make]] = {
  "tensorboard": ("tensorboardX", _TensorBoard),
  "wandb": ("wandb", _Wandb),
  "trackio": ("trackio", _Trackio),
}


def check(names: Iterable[str]) -> None:
  """Raises ValueError unless each is known and installed, or a "package.module:factory"."""
  for name in names:
    if ":" in name:
      _lazy.imported(name)
      continue
    if name not in _KNOWN:
      raise ValueError(
        f"expected of {', '.join(_KNOWN)}, or package.module:factory of your own; got {name!r}"
      )
    if importlib.util.find_spec(_KNOWN[name][0]) is None:
      raise ValueError(f"{name} is not installed; pip install {_KNOWN[name][0]}")


class Writers:
  """The writers of a run, those that have not failed.

  Args:
    names: as `check` takes them.
    workdir, config, resumed: as `Make` takes them.
    say: takes a line on each that fails.
  """

  def __init__(
    self,
    names: Iterable[str],
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    resumed: int | None,
    say: Callable[[str], None],
  ):
    self._say, self._writers = say, {}
    for name in names:
      make = _KNOWN[name][1] if name in _KNOWN else _lazy.imported(name)
      self._or_without(name, lambda n=name, f=make: self._keep(n, f(workdir, config, resumed)))

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Hands the scalars of one step to each."""
    for name, writer in list(self._writers.items()):
      self._or_without(name, lambda t=writer: t.write(step, metrics))

  def close(self) -> None:
    """Ends each."""
    for name, writer in list(self._writers.items()):
      self._or_without(name, writer.close)

  def _keep(self, name: str, writer: Writer) -> None:
    self._writers[name] = writer

  def _or_without(self, name: str, act: Callable[[], None]) -> None:
    try:
      act()
    except Exception as error:
      # Any error of a writer, its network's or its own, is less than a day of training.
      self._writers.pop(name, None)
      reason = str(error).strip().split("\n")[0][:200]
      self._say(f"{name} failed ({type(error).__name__}: {reason}); training goes on without it")
