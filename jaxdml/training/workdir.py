"""A workdir belongs to one config and its data, and to one process at a time."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxdml import _files
from jaxdml._text import printable
from jaxdml.data import Dataset, preprocess
from jaxdml.training import config as config_lib
from jaxdml.training import defaults
from jaxdml.training.checkpoints import CheckpointError
from jaxdml.training.config import Config, ConfigError, duration, flatten

FORMAT = 4
"""Of a workdir, in its config.json: 1 named none, 2 had no digests, 3 not the `first` of HDML."""

TRAINED = "trained model"
"""Its row in the results, after those of what it has to beat."""

FROZEN = "frozen pretrained encoder"
"""The row of the encoder that `encoder.init` names, by its own pooling and cosine similarity."""

_FLOORS = ("raw pixels", "untrained encoder", FROZEN)  # What any training has to beat.
_DATA, _RESULTS_DIGEST = "data.json", "results.sha256"
_DURATION = "train.duration"
_LONGEST = 200  # Bytes of the longest path inside a workdir, Orbax's.
# What runs older than a key did, where it is not the key's default.
_BEFORE = {
  "data.crop_pct": preprocess.CROP_PCT, "data.interpolation": preprocess.INTERPOLATION,
}  # fmt: skip
# What may differ between the run that made a workdir and the one that resumes it: nothing here
# reaches the parameters of a step.
OPERATIONAL = (
  "data.cache", "data.data_dir", "data.max_bad_images", "data.num_workers",
  "train.checkpoint_every", "train.keep", "train.log_every", "train.patience", "train.report",
  "train.writers",
)  # fmt: skip


def check_path(workdir: pathlib.Path) -> None:
  """Refuses a path that no run can be written to, and makes nothing.

  Raises ConfigError: it is too long, no folder, a link to nothing, or not for this user to write.
  """
  path = pathlib.Path(os.path.abspath(workdir))
  there, reason = path, ""
  try:
    while not os.path.lexists(there):
      there = there.parent
    made = path.parts[len(there.parts) :]
    if "\0" in str(path):
      reason = "no path has a null in it"
    elif not there.exists():
      reason = f"{there} is a link to {os.readlink(there)}, which is not there"
    elif not there.is_dir():
      reason = "expected a folder, this is a file" if there == path else f"{there} is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
      reason = f"{there} is not yours to write to"
    elif any(len(os.fsencode(name)) > os.pathconf(there, "PC_NAME_MAX") for name in made):
      reason = f"a name in it is longer than {os.pathconf(there, 'PC_NAME_MAX')} bytes"
    elif len(os.fsencode(path)) + _LONGEST > os.pathconf(there, "PC_PATH_MAX"):
      reason = f"longer than {os.pathconf(there, 'PC_PATH_MAX') - _LONGEST} bytes"
  except OSError as error:
    reason = error.strerror or str(error)
  if reason:
    raise ConfigError(printable(f"--workdir={workdir}: {reason}; choose another --workdir"))


def _as_json(config: Config) -> dict[str, Any]:
  return json.loads(_files.dump_json(config.to_dict()))


def check(config: Config, workdir: pathlib.Path, steps_per_epoch: int) -> int | None:
  """Writes config.json into a new workdir; in an old one, refuses a config that differs.

  A longer `train.duration` alone is taken; `write_config` is to follow, once the workdir is held.

  Returns the steps that the run was to have before, if it becomes longer; else None.

  Raises ConfigError: the workdir holds a run of another config; the differing keys are listed.
  """
  path = workdir / "config.json"
  ours = {"format": FORMAT, **_as_json(config)}
  if not path.exists():
    if any((workdir / "checkpoints" / "last").glob("[0-9]*")):
      raise ConfigError(
        f"--workdir={workdir} holds checkpoints and no config.json that says whose; put that file "
        "back, or choose another --workdir"
      )
    write_config(config, workdir)
    return None
  mine = flatten(ours)
  # A key younger than the run: then it was as it is by default now, which weights may fill in.
  default = flatten(_as_json(defaults.get_config()))
  filled_in = {key: value for key, value in _BEFORE.items() if mine[key] != default[key]}
  theirs = default | filled_in | flatten(_config_there(path))
  differing = [
    f"  {key}: there {theirs.get(key, '(absent)')!r}, here {mine.get(key, '(absent)')!r}"
    for key in sorted(mine.keys() | theirs.keys())
    if key not in OPERATIONAL and mine.get(key) != theirs.get(key)
  ]
  if not differing:
    return None
  then, now = (duration(of[_DURATION], steps_per_epoch, _DURATION) for of in (theirs, mine))
  if len(differing) == 1 and then < now:
    return then
  raise ConfigError(
    f"--workdir={workdir} holds a run of another config:\n"
    + "\n".join(differing)
    + f"\nchoose another --workdir, or give the same config to resume; a longer {_DURATION} alone "
    "makes the run longer"
  )


def write_config(config: Config, workdir: pathlib.Path) -> None:
  """Writes config.json, from the first host alone."""
  if not jax.process_index():
    ours = {"format": FORMAT, **_as_json(config)}
    _files.write_json(workdir / "config.json", _files.seal(ours))


def read_config(workdir: pathlib.Path, data_dir: str | None = None) -> Config:
  """The run's config.json over the defaults, so that keys younger than the run have a value.

  `data_dir` replaces the config's, if given.

  Raises:
    CheckpointError: there is no config.json.
    ConfigError: it is damaged or has keys that this version does not know.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise CheckpointError(
      f"{workdir} holds no run: there is no config.json in it; expected the --workdir of "
      "python -m jaxdml.main"
    )
  values = _config_there(path)
  values.pop("format")
  try:
    config = config_lib.read(values)
  except ConfigError:
    raise
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    first = str(error).strip().split("\n")[0]
    raise ConfigError(f"{path} is no config of this version: {first}") from error
  return config if data_dir is None else config_lib.replace(config, {"data.data_dir": data_dir})


def _config_there(path: pathlib.Path) -> dict[str, Any]:
  """Content of a config.json, which must be what was written; one without a seal is a user's."""
  try:
    values = json.loads(path.read_text("utf-8"))
    found = values.get("format", 1)
  except (AttributeError, ValueError) as error:  # no object; no JSON, or no UTF-8
    raise ConfigError(
      f"{path} is no JSON of a config ({error}); choose another --workdir"
    ) from error
  if found != FORMAT:
    raise ConfigError(
      f"{path} was written by another version of jaxdml (format {found}; this one reads {FORMAT}): "
      "look at it with that version, or train anew in another --workdir"
    )
  if (seal := values.pop("seal", None)) and seal != _files.seal(values)["seal"]:
    raise ConfigError(
      f"{path} is not what the run wrote: it is damaged, or was changed; bring it back as it was, "
      'or take its "seal" out if it is to be so'
    )
  return values


def write_results(workdir: pathlib.Path, rows: Mapping[str, Mapping[str, float]]) -> None:
  """Writes results.json, whose presence says that the run has finished, and its SHA-256 before."""
  text = _files.dump_json(rows, indent=2) + "\n"
  digest = hashlib.sha256(text.encode()).hexdigest()
  _files.write_text(workdir / _RESULTS_DIGEST, f"{digest}  results.json\n")
  _files.write_text(workdir / "results.json", text)


def read_results(workdir: pathlib.Path) -> dict[str, dict[str, float]] | None:
  """Reads the run's results.json, the trained model last; None if it has not finished.

  Raises ConfigError: it is not what a run writes.
  """
  path = workdir / "results.json"
  if not path.is_file():
    return None
  digest = workdir / _RESULTS_DIGEST
  try:
    if digest.is_file() and digest.read_text("utf-8").split()[:1] != [_files.sha256(path)]:
      raise ValueError(f"its digest is not that in {digest.name}")
    rows = json.loads(path.read_text("utf-8"))
    if not isinstance(rows, dict) or TRAINED not in rows:
      raise ValueError(f"expected rows by name, {TRAINED!r} among them")
    for name, row in rows.items():
      if not isinstance(row, dict):
        raise ValueError(f"{name!r}: expected metrics by name")
      for metric, value in row.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
          raise ValueError(f"{name!r}: {metric!r} is no number")
  except ValueError as error:
    raise ConfigError(
      f"{path} is not what a run writes ({error}); delete it: the training command measures anew"
    ) from error
  # What could not be measured is null in JSON.
  numbers = {n: {k: math.nan if v is None else v for k, v in r.items()} for n, r in rows.items()}
  trained = numbers.pop(TRAINED)
  return {**numbers, TRAINED: trained}


def shortfalls(rows: Mapping[str, Mapping[str, float]], metric: str) -> list[str]:
  """Sentences on the floors that the trained model ends below; `metric` is "last" for MAP@R.

  >>> shortfalls({"raw pixels": {"map@r": 0.4}, TRAINED: {"map@r": 0.3}}, "last")
  ['the trained model ends below raw pixels: map@r 0.300 against 0.400']
  """
  metric = "map@r" if metric == "last" else metric
  score = {name: rows.get(name, {}).get(metric, math.nan) for name in (TRAINED, *_FLOORS)}
  return [
    f"the {TRAINED} ends below {'the ' * name.endswith('encoder')}{name}: {metric} "
    f"{score[TRAINED]:.3f} against {score[name]:.3f}"
    for name in _FLOORS
    if score[TRAINED] < score[name]
  ]


def check_data(workdir: pathlib.Path, splits: Mapping[str, Dataset], label: str) -> None:
  """Writes data.json, what a run is made of; refuses to go on with other data under that name.

  Raises ConfigError: the data set was made anew, from other images, since the run began.
  """
  path = workdir / _DATA
  if not path.exists() and not jax.process_index():
    about = {name: _about(images, label) for name, images in splits.items()}
    _files.write_json(path, _files.seal(about))
  if changed := changed_data(workdir, splits, label):
    raise ConfigError(f"{changed}; choose another --workdir, or bring back the data set as it was")


def changed_data(workdir: pathlib.Path, splits: Mapping[str, Dataset], label: str) -> str | None:
  """Tells how splits differ from those of the run in `workdir`; None where they do not.

  Raises ConfigError: its data.json is damaged.
  """
  path = workdir / _DATA
  if not path.exists():
    return None
  try:
    then = _files.read_sealed(path)
    for name, images in splits.items():
      old, new = then.get(name), _about(images, label)
      if old is not None and old["digest"] != new["digest"]:
        count = "{images} images of {classes} classes".format
        same = " too, others" if {**old, "digest": ""} == {**new, "digest": ""} else ""
        return (
          f"{images.name!r} was made anew since the run in {workdir} began: {name} split "
          f"{count(**old)} then, {count(**new)} now{same}"
        )
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ConfigError(f"{path} is damaged ({error}); choose another --workdir") from error
  return None


def _about(images: Dataset, label: str) -> dict[str, Any]:
  count = len(images.classes(label))
  return {"images": len(images), "classes": count, "digest": images.digest}


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Holds a workdir for this process; the lock goes with the process, however it ends.

  Two that train in one workdir would each drop what the other one writes. Where the file system
  knows no locks, nothing is held. Of several hosts the first one holds it.

  Raises ConfigError: another process trains there.
  """
  if jax.process_index():
    yield
    return
  with (workdir / ".lock").open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ConfigError(
        f"another process is training in --workdir={workdir}; wait for it, or choose another"
      ) from error
    except OSError:  # no locks: some network file systems
      pass
    yield
