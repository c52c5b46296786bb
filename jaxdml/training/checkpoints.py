"""Orbax checkpoints: asynchronous, atomic, the last few and the best.

Orbax writes into a temporary directory and renames it when it is whole, so a save that was cut off
is never seen by `restore`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxdml.errors import JaxdmlError
from jaxdml.types import PyTree

__all__ = ["CheckpointError", "Checkpoints", "Progress", "open_best"]


class CheckpointError(JaxdmlError, RuntimeError):
  """A checkpoint that cannot be read or written; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """Facts that the loop needs to go on, beside the training state.

  Attributes:
    best: what `eval.select_by` selected by, of the best checkpoint; None before the first
      evaluation.
    best_step: the step of that checkpoint.
    floors: metrics of what training must beat, by its name in the results.
  """

  best: float | None = None
  best_step: int | None = None
  floors: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


class Checkpoints:
  """`workdir/checkpoints/last/STEP` and `workdir/checkpoints/best/STEP`.

  Each holds the unreplicated training state and the loop's `Progress`.
  """

  def __init__(self, workdir: pathlib.Path, keep: int | None = None, *, read_only: bool = False):
    """Opens the checkpoints of `workdir`; the last `keep` and the best are kept.

    Read only, nothing is written or tidied up, so the run may still be training.
    """
    self._root = root = pathlib.Path(workdir).resolve() / "checkpoints"
    verbosity = logging.get_verbosity()
    if read_only:
      logging.set_verbosity(logging.ERROR)  # Orbax warns that it only reads.
    self._managers = {
      name: ocp.CheckpointManager(
        root / name,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=None if read_only else count,
          cleanup_tmp_directories=not read_only,
          create=not read_only,
          read_only=read_only,
          # With several hosts, the two managers must not wait at each other's barriers.
          multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name),
        ),
      )
      for name, count in (("last", keep), ("best", 1))
    }
    logging.set_verbosity(verbosity)

  def latest_step(self, which: str = "last") -> int | None:
    """The newest whole checkpoint's step, or None."""
    return self._managers[which].latest_step()

  def save(self, which: str, step: int, state: PyTree, progress: Progress) -> None:
    """Starts saving host arrays `state` and the progress; returns at once.

    Raises:
      CheckpointError: it cannot be written, or what was saved last could not.
    """
    if step in self._managers[which].all_steps():
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
    )
    with self._writing():
      self._managers[which].save(step, args=args, force=True)

  def restore(self, which: str, abstract: Any) -> tuple[Any, Progress]:
    """The newest checkpoint as host arrays, in the structure of `abstract`, and its progress.

    Args:
      which: "last" or "best".
      abstract: a NamedTuple of shapes and dtypes.

    Raises:
      CheckpointError: if it cannot be read or has another structure.
    """
    with self._reading(which) as (step, _):
      restored = self._managers[which].restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(_on_one_device(abstract._asdict())),
          progress=ocp.args.JsonRestore(),
        ),
      )
      progress = Progress(**restored["progress"])
    return type(abstract)(**jax.tree.map(np.asarray, restored["state"])), progress

  def restore_part(self, which: str, abstract: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint's step, and of its state what `abstract` names, as host arrays.

    The rest (the optimizer's state is twice the parameters) is not read.

    Args:
      which: "last" or "best".
      abstract: nested dicts of shapes and dtypes.

    Raises:
      CheckpointError: if it cannot be read or has no such arrays.
    """
    with self._reading(which) as (step, path), ocp.PyTreeCheckpointer() as reader:
      _check_shapes(ocp.StandardCheckpointHandler().metadata(path / "state"), abstract)
      target = _on_one_device(abstract)
      restored = reader.restore(
        path / "state",
        args=ocp.args.PyTreeRestore(
          item=target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
    return step, jax.tree.map(np.asarray, restored)

  @contextlib.contextmanager
  def _reading(self, which: str) -> Iterator[tuple[int, pathlib.Path]]:
    """(step, directory) of the newest; what goes wrong inside becomes a CheckpointError."""
    manager = self._managers[which]
    step = manager.latest_step()
    if step is None:
      raise CheckpointError(
        f"there is no checkpoint in {manager.directory}; the command that trained it goes on from "
        "what else is there"
      )
    path = pathlib.Path(manager.directory) / str(step)
    back = "go back to the checkpoint before it"
    if which == "best":
      back = "let the command that trained it find the best anew, from the last checkpoint on"
    try:
      yield step, path
    except Exception as error:
      raise CheckpointError(
        f"cannot read the checkpoint {path}: {_reason(error)}\n"
        f"delete that directory to {back}, or choose another --workdir"
      ) from error

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Of Orbax's threads and TensorStore: of many kinds.
      raise CheckpointError(
        f"cannot write to {self._root}: {_reason(error)}\n"
        "what was saved before is whole; make room there, and the same command goes on from it"
      ) from error

  def wait(self) -> None:
    """Waits until everything is on disk.

    Raises:
      CheckpointError: it cannot be written.
    """
    with self._writing():
      for manager in self._managers.values():
        manager.wait_until_finished()

  def close(self) -> None:
    """Waits and releases the threads.

    Raises:
      CheckpointError: what was saved last cannot be written.
    """
    with self._writing(), contextlib.ExitStack() as stack:
      for manager in self._managers.values():
        stack.callback(manager.close)


@contextlib.contextmanager
def open_best(workdir: pathlib.Path) -> Iterator[Checkpoints]:
  """The checkpoints of a run to read the best of.

  Raises:
    CheckpointError: there is none.
  """
  if not any((workdir / "checkpoints" / "best").glob("[0-9]*")):
    raise CheckpointError(
      f"{workdir} holds no checkpoint: its run was stopped before the first evaluation; "
      "give its command again"
    )
  manager = Checkpoints(workdir, read_only=True)
  try:
    yield manager
  finally:
    manager.close()


def _reason(error: Exception) -> str:
  return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _on_one_device(abstract: PyTree) -> PyTree:
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)


def _check_shapes(there: Any, abstract: PyTree) -> None:
  """Orbax would fail as well, leaving coroutines behind, or with the name of no array."""
  for path, leaf in jax.tree.leaves_with_path(abstract):
    found, names = there, [entry.key for entry in path]
    for name in names:
      found = found.get(name) if hasattr(found, "get") else None
    if found is None or tuple(found.shape) != tuple(leaf.shape):
      got = "none" if found is None else list(found.shape)
      raise ValueError(
        f"{'/'.join(names)}: the config has {list(leaf.shape)}, the checkpoint {got}"
      )
