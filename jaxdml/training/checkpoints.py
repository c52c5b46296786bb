"""Orbax checkpoints: asynchronous, atomic, with digests; the last few and the best.

Orbax writes into a temporary directory and renames it when it is whole, so a save that was cut off
is never seen by `restore`. Digests show what a disk or a copy has damaged since.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdml import _files
from jaxdml.errors import JaxdmlError
from jaxdml.types import PyTree

_ROW = 1 << 15  # Bytes that a digest sums.


def _not_of_orbax(record: logging.LogRecord) -> bool:
  return "orbax" not in f"{record.pathname} {record.getMessage()}"


# What fails is raised, and told in one line. Orbax logs it as well, with a traceback an array, and
# warns that it only reads.
for _name in ("absl", "asyncio"):
  logging.getLogger(_name).addFilter(_not_of_orbax)
_told = sys.unraisablehook


def _unraisable(unraisable: Any) -> None:
  # TensorStore's threads end here when they report to Orbax after a first write has failed.
  if str(unraisable.exc_value) != "Event loop is closed":
    _told(unraisable)


sys.unraisablehook = _unraisable


class CheckpointError(JaxdmlError, RuntimeError):
  """A checkpoint that cannot be read or written; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """Facts that the loop needs to go on, beside the training state."""

  # What `eval.select_by` selected by, of the best checkpoint; None before the first evaluation.
  best: float | None = None
  best_step: int | None = None  # the step of that checkpoint
  # Metrics of what training must beat, by its name in the results.
  floors: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  lines: int = 0  # of metrics.jsonl, so that lost ones are noticed
  waited: int = 0  # evaluations since that of the best checkpoint


class Checkpoints:
  """`workdir/checkpoints/last/STEP` and `workdir/checkpoints/best/STEP`.

  Each holds the unreplicated training state, the loop's `Progress` and digests of both.
  """

  def __init__(self, workdir: pathlib.Path, keep: int | None = None, *, read_only: bool = False):
    """Opens the checkpoints of `workdir`; the last `keep` and the best are kept.

    Read only, nothing is written or tidied up, so the run may still be training.
    """
    self._root = root = pathlib.Path(workdir).resolve() / "checkpoints"
    self._link: tempfile.TemporaryDirectory | None = None
    if re.search(r"[^\w ./+=,@:~-]", str(root)):
      # Orbax takes * ? [ and \ in the names of folders for patterns: it gets another name.
      if not read_only:
        root.mkdir(parents=True, exist_ok=True)
      self._link = tempfile.TemporaryDirectory(prefix="jaxdml-")
      root = pathlib.Path(self._link.name) / "checkpoints"
      root.symlink_to(self._root)
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

  def latest_step(self, which: str = "last") -> int | None:
    """The newest checkpoint's step, or None."""
    return self._managers[which].latest_step()

  def _all(self) -> list[str]:
    """WHICH/STEP of all, the newest first; of one step the last before the best."""
    steps = [(step, which) for which, m in self._managers.items() for step in m.all_steps()]
    return [f"{which}/{step}" for step, which in sorted(steps, reverse=True)]

  def save(self, which: str, step: int, state: PyTree, progress: Progress) -> None:
    """Starts saving host arrays `state` and the progress; returns at once.

    Raises CheckpointError: it cannot be written, or what was saved last could not.
    """
    if step in self._managers[which].all_steps():
      return
    state = _parts(state)
    facts = {"arrays": digests(state), **dataclasses.asdict(progress)}
    sealed = ocp.args.JsonSave(_files.seal(_files.finite(facts)))
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=sealed)
    with self._writing():
      self._managers[which].save(step, args=args, force=True)

  def resume(self, abstract: Any, say: Callable[[str], None]) -> tuple[Any, Progress] | None:
    """The newest whole checkpoint, the best among them, as `restore` gives it; None without any.

    Damaged ones, and a damaged best, are put aside in the same folder once a whole one is found,
    and `say` takes a line on each: from an earlier step the run takes the same way again.

    Raises CheckpointError: all are damaged or have another structure; nothing is put aside.
    """
    damaged, found = {}, None
    for name in self._all():
      which, step = name.split("/")
      if found is None or which == "best":
        try:
          restored = self.restore(which, abstract, int(step))
          found = found or restored
        except CheckpointError as error:
          if jax.process_count() > 1:  # Hosts may not decide this each by itself.
            raise
          damaged[name] = error
    if found is None and damaged:
      raise next(iter(damaged.values()))
    for name, error in damaged.items():
      aside = _unused(self._root / f"damaged-{name.replace('/', '-')}")
      with self._writing():
        (self._root / name).rename(aside)
        for manager in self._managers.values():
          manager.reload()
      say(f"{str(error).splitlines()[0]}; it is now {aside}")
    return found

  def restore(self, which: str, abstract: Any, step: int | None = None) -> tuple[Any, Progress]:
    """A checkpoint as host arrays, in the structure of `abstract`, and its progress.

    Args:
      which: "last" or "best".
      abstract: a NamedTuple of shapes and dtypes.
      step: by default the newest.

    Raises CheckpointError: if it cannot be read, is damaged or has another structure.
    """
    with self._reading(which, step) as (step, _):
      state_args = ocp.args.StandardRestore(_on_one_device(_parts(abstract)))
      args = ocp.args.Composite(state=state_args, progress=ocp.args.JsonRestore())
      restored = self._managers[which].restore(step, args=args)
      progress, saved = _checked_facts(restored["progress"])
      state = jax.tree.map(np.asarray, restored["state"])
      _check_digests(saved, state)
    return type(abstract)(**state), progress

  def restore_part(self, which: str, abstract: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint's step, and of its state what `abstract` names, as host arrays.

    The rest (the optimizer's state is twice the parameters) is not read.

    Args:
      which: "last" or "best".
      abstract: nested dicts of shapes and dtypes.

    Raises CheckpointError: if it cannot be read, is damaged or has no such arrays.
    """
    with self._reading(which) as (step, path), ocp.PyTreeCheckpointer() as reader:
      _check_shapes(ocp.StandardCheckpointHandler().metadata(path / "state"), abstract)
      target = _on_one_device(abstract)
      restore_args = ocp.checkpoint_utils.construct_restore_args(target)
      args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
      state = jax.tree.map(np.asarray, reader.restore(path / "state", args=args))
      args = ocp.args.Composite(progress=ocp.args.JsonRestore())
      facts = self._managers[which].restore(step, args=args)["progress"]
      _check_digests(_checked_facts(facts)[1], state)
    return step, state

  @contextlib.contextmanager
  def _reading(self, which: str, step: int | None = None) -> Iterator[tuple[int, pathlib.Path]]:
    """(step, directory) of one or the newest; what goes wrong inside becomes a CheckpointError."""
    manager = self._managers[which]
    step = manager.latest_step() if step is None else step
    if step is None:
      raise CheckpointError(
        f"there is no checkpoint in {self._root / which}; the command that trained it goes on from "
        "what else is there"
      )
    try:
      yield step, pathlib.Path(manager.directory) / str(step)
    except Exception as error:
      others = ", ".join(c for c in self._all() if c != f"{which}/{step}")
      advice = "there is no other one: choose another --workdir to train anew"
      if others:
        advice = "the command that trained it goes on from the newest whole one of "
        advice += f"{others}, and finds the best anew"
      path = self._root / which / str(step)
      raise CheckpointError(
        f"cannot read the checkpoint {path}: {_reason(error)}\n{advice}"
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
    """Waits until everything is on disk; CheckpointError: it cannot be written."""
    with self._writing():
      for manager in self._managers.values():
        manager.wait_until_finished()

  def close(self) -> None:
    """Waits and releases the threads; CheckpointError: what was saved last cannot be written."""
    with self._writing(), contextlib.ExitStack() as stack:
      if self._link is not None:
        stack.callback(self._link.cleanup)
      for manager in self._managers.values():
        stack.callback(manager.close)


@contextlib.contextmanager
def open_best(workdir: pathlib.Path) -> Iterator[Checkpoints]:
  """The checkpoints of a run to read the best of; CheckpointError: there is none."""
  if not any((workdir / "checkpoints" / "best").glob("[0-9]*")):
    raise CheckpointError(
      f"{workdir} holds no checkpoint: its run was stopped before the first evaluation; "
      "give its command again"
    )
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as manager:
    yield manager


def digests(tree: PyTree) -> dict[str, str]:
  """Returns a digest of each host array's type, shape and bytes, by its path in the tree.

  The CRC-32 of the sums of its rows of 32 KB: a changed word changes it, and it takes a fifth of
  the time of the CRC itself.
  """

  leaves, structure = jax.tree.flatten(tree)
  leaves = list(map(np.asarray, leaves))
  large = sorted((x for x in leaves if x.nbytes >= _ROW), key=lambda x: -x.nbytes)
  threads = min(os.cpu_count() or 1, 8)  # They wait for memory: more gain nothing.
  dtype_name = functools.cache(str)
  code_of = lambda x, sums=b"": zlib.crc32(
    sums, zlib.crc32(f"{dtype_name(x.dtype)} {x.shape}".encode())
  )

  def of_large(x: np.ndarray) -> int:
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    whole = len(data) // _ROW * _ROW
    rows = data[:whole].view(np.uint64).reshape(-1, _ROW // 8)
    return zlib.crc32(data[whole:], code_of(x, np.add.reduce(rows, axis=1)))

  with futures.ThreadPoolExecutor(threads) as pool:
    # By turns in the order of their sizes, each thread has as many bytes.
    of_part = lambda first: [(id(x), of_large(x)) for x in large[first::threads]]
    parts = pool.map(of_part, range(threads))
    codes = {id(x): zlib.crc32(x.tobytes(), code_of(x)) for x in leaves if x.nbytes < _ROW}
    codes |= dict(pair for part in parts for pair in part)
  return {name: f"{codes[id(x)]:08x}" for name, x in zip(_names(structure), leaves, strict=True)}


@functools.lru_cache(maxsize=8)
def _names(structure: Any) -> list[str]:
  """The paths of a tree's leaves, a/b/c."""
  tree = jax.tree.unflatten(structure, range(structure.num_leaves))
  paths = (path for path, _ in jax.tree.leaves_with_path(tree))
  return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _checked_facts(saved: Mapping[str, Any]) -> tuple[Progress, dict[str, str]]:
  """(progress, digests of the arrays) of what `save` wrote as JSON."""
  facts = dict(saved)
  if facts.pop("seal", None) != _files.seal(facts)["seal"]:
    raise ValueError("progress/metadata is not what was saved: it is damaged")
  arrays = facts.pop("arrays")
  # JSON knows no NaN: the score of a floor that has none is null there.
  floors = {
    name: {k: float("nan") if v is None else v for k, v in row.items()}
    for name, row in facts.pop("floors").items()
  }
  return Progress(floors=floors, **facts), arrays


def _check_digests(saved: Mapping[str, str], state: PyTree) -> None:
  for name, digest in digests(state).items():
    if saved.get(name) != digest:
      raise ValueError(f"{name} is not what was saved: it is damaged")


def _unused(path: pathlib.Path) -> pathlib.Path:
  """The path, or the first of path-2, path-3, ... that is not there."""
  names = (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in range(1, 1000))
  return next(name for name in names if not name.exists())


def _reason(error: Exception) -> str:
  return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _parts(state: PyTree) -> PyTree:
  """A NamedTuple as a dict, without empty fields that have a default: of old there were none."""
  if not isinstance(state, tuple):
    return state
  optional = state._field_defaults
  return {k: v for k, v in state._asdict().items() if k not in optional or jax.tree.leaves(v)}


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
