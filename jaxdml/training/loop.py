"""The one trainer: `train_and_evaluate(config, workdir)`."""

import collections
import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable

import chex
import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxdml import data, evaluation, models
from jaxdml._text import bar_options
from jaxdml.errors import JaxdmlError
from jaxdml.training import (
  checkpoints,
  encoder_init,
  features,
  outcome,
  parallel,
  recipes,
  runs,
  setup,
)  # fmt: skip
from jaxdml.training import config as config_lib
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.checkpoints import Progress
from jaxdml.training.features import Evaluator
from jaxdml.training.metrics_log import MetricsWriter
from jaxdml.training.monitors import Interrupt, Starving, say
from jaxdml.training.program import TrainState
from jaxdml.training.writers import Writers


class NonFiniteError(JaxdmlError, RuntimeError):
  """The loss or a gradient became NaN or infinite; training stopped, checkpoints are kept."""

  exit_status = 1


Finished = Callable[[runs.Restored, evaluation.Embedded], None]
"""What `train_and_evaluate` may do at its end, with the run and its embedded test split."""


class _Run:
  """One run: what is built once, and the steps of its life."""

  progress: Progress  # of the state that training has reached; saved with it

  def __init__(self, config: ConfigDict, workdir: pathlib.Path, finished: Finished | None):
    config = setup.resolve(config, jax.device_count())
    workdir_lib.check_path(workdir)
    self.config, self.workdir, self.finished = config, workdir, finished
    if config.hdml.enabled and config.hdml.variant != "default":
      for key, (ours, its) in config_lib.kept(config).items():
        say(f"{key}={ours}, as the config sets it; hdml.variant={config.hdml.variant}: {its}")
    self.setup = setup.prepare(config)
    self.total = self.setup.total_steps
    self.sampler = setup.sampler(config, self.setup.train)
    program = self.setup.program
    # A second trace would be a second compilation, minutes on an accelerator, in the middle of a
    # run: an error. chex tells functions apart by source and callers alone, so a run of before in
    # this process would count, too.
    chex.clear_trace_counter()
    step = chex.assert_max_traces(program.step, n=1)
    self.step_fn = parallel.compile_step(step, config.train.parallel)
    # What cannot run is found before the workdir is this config's, and before any time is spent.
    setup.trace(self.setup)
    before = workdir_lib.check(config, workdir, self.setup.steps_per_epoch)
    workdir_lib.check_data(workdir, self.setup.splits, config.data.label)
    self.test = Evaluator(config, self.setup.measured, program.embed, shared=True)
    self.selection = self.test
    if self.setup.selecting is not self.setup.measured:
      self.selection = Evaluator(config, self.setup.selecting, program.embed, shared=True)
    self.bad_images = data.BadImages(self.setup.train, config.data.max_bad_images)
    # The workdir is this process's alone before anything in it is tidied up.
    with contextlib.ExitStack() as stack:
      stack.enter_context(workdir_lib.alone(workdir))
      if before:
        workdir_lib.write_config(config, workdir)
        say(
          f"{workdir} becomes longer: {self.total} steps in place of {before}; from here on "
          f"optimizer.schedule={config.optimizer.schedule} is that of {self.total} steps"
        )
      self.checkpoints = checkpoints.Checkpoints(workdir, config.train.keep)
      stack.callback(self.checkpoints.close)
      self.close = stack.pop_all().close

  def start(self) -> tuple[TrainState, bool]:
    """The state to go on from, on the host, and whether it is a checkpoint's; sets the progress."""
    resumed = self.checkpoints.resume(self.setup.abstract_state(), say)
    if resumed is None:
      if self.config.encoder.init:
        say(encoder_init.describe(self.config))
      self.progress = Progress()
      return self.setup.initial_state(), False
    state, progress = resumed
    say(f"resuming from step {int(state.step)} of {self.total} in {self.workdir}")
    if progress.best is not None and self.checkpoints.latest_step("best") is None:
      say(f"the best checkpoint, of step {progress.best_step}, is gone: the best from here on")
      progress = dataclasses.replace(progress, best=None, best_step=None, waited=0)
    self.progress = progress
    return state, True

  def save(self, which: str, state: TrainState, writer: MetricsWriter) -> None:
    """Starts saving the state and the progress that belongs to it."""
    self.progress = dataclasses.replace(self.progress, lines=writer.lines)
    self.checkpoints.save(which, int(state.step), state, self.progress)

  def evaluate(self, state: TrainState, writer: MetricsWriter) -> None:
    """Scores the selection split; keeps the checkpoint if it is the best so far."""
    metrics = self.selection.score(self.selection.embed(state))
    step, metric = int(state.step), self.config.eval.select_by
    writer.write(step, {f"eval/{self.selection.name}/{k}": v for k, v in metrics.items()})
    scores = {k: v for k, v in metrics.items() if not k.startswith("num_")}
    # Diagnostics have a slash in their name, and go to the files alone.
    shown = "  ".join(f"{k} {v:.3f}" for k, v in scores.items() if "/" not in k)
    bad = int(metrics["num_undecodable"])
    left_out = f" ({bad} images that cannot be decoded left out)" if bad else ""
    say(f"step {step}, {self.selection.name}: {shown}{left_out}")
    score = float(step) if metric == "last" else metrics[metric]
    if math.isnan(score):  # Nothing would ever be better, nor worse.
      raise config_lib.ConfigError(
        f"config.eval.select_by: {metric} of {self.selection.name} is not a number: no image that "
        "can be decoded has another one of its class; mend the images, or select by another split"
      )
    if self.progress.best is None or score > self.progress.best:
      self.progress = dataclasses.replace(self.progress, best=score, best_step=step, waited=0)
      self.save("best", state, writer)
    else:
      self.progress = dataclasses.replace(self.progress, waited=self.progress.waited + 1)
    if self.stopped:
      last = f"{metric} {self.progress.best:.3f} of step {self.progress.best_step}"
      say(f"step {step} of {self.total} is the last (train.patience): {last} stayed the best")

  @property
  def stopped(self) -> bool:
    """Tells whether `train.patience` is at its end."""
    return 0 < self.config.train.patience <= self.progress.waited

  def floors(self, state: TrainState) -> dict[str, dict[str, float]] | None:
    """Measures the floors on the test split, the plain form's too; None if SIGTERM ended it."""
    if self.config.eval.raw_pixels or self.config.eval.untrained:
      say(f"measuring what training must beat on {self.test.name}")
    floors = outcome.floors(self.setup, self.test, state)
    if self.config.eval.plain:
      workdir = self.workdir / "plain"
      say(f"training the plain form, without EPS and HDML, in {workdir}")
      rows = train_and_evaluate(recipes.plain(self.config), workdir)
      if rows is None:
        return None
      floors["plain form"] = rows[workdir_lib.TRAINED]
      chex.clear_trace_counter()  # It would count the plain form's step as this one's.
    return floors

  def train(self) -> dict[str, dict[str, float]] | None:
    """Runs the remaining steps; None if SIGTERM ended them early, KeyboardInterrupt if Ctrl-C."""
    state, resumed = self.start()
    start = int(state.step)
    train, label = self.setup.train, self.config.data.label
    devices = jax.devices()
    learns = self.setup.program.learns(state.params)
    size, learning = models.count_parameters(state.params), models.count_parameters(learns)
    say(
      f"{len(train)} training images of {len(train.classes(label))} classes by {label}, "
      f"{size} parameters{f' ({learning} of them learn)' if learning < size else ''}, "
      f"{len(devices)} x {devices[0].device_kind}"
    )
    gone_on = start if resumed else None
    writers = lambda: Writers(
      self.config.train.writers, self.workdir, self.config.to_dict(), gone_on, say
    )
    with MetricsWriter(self.workdir, gone_on, self.progress.lines, writers) as writer:
      if writer.lost:
        say(writer.lost)
      if self.progress.best is None:  # A new run, or one whose best checkpoint is lost.
        floors = self.progress.floors or self.floors(state)
        if floors is None:
          return None
        self.progress = dataclasses.replace(self.progress, floors=floors)
        self.evaluate(state, writer)
        self.save("last", state, writer)
      finished = start >= self.total or self.stopped
      if finished and start < self.total:
        say(
          f"train.patience={self.config.train.patience} ended this run at step {start} of "
          f"{self.total}; with a larger one, or 0 for none, the same command trains on"
        )
      finished = finished or self._steps_from(state, writer)
      if self.bad_images.reasons:
        say(
          f"{len(self.bad_images)} of {len(train)} training images cannot be decoded; others of "
          "their classes stood in"
        )
      self.checkpoints.wait()
    return self.results() if finished else None

  def _steps_from(self, state: TrainState, writer: MetricsWriter) -> bool:
    """Trains from `state` to the end; False if SIGTERM came first. Saves in any case."""
    steps = ("log_every", "checkpoint_every", "evaluate_every")
    log_every, save_every, evaluate_every = map(self.setup.steps, steps)
    start = logged = int(state.step)
    device_state = parallel.replicate(state)
    pending: collections.deque = collections.deque()
    # Without a terminal a bar would fill log files: a line each log_every instead.
    bar = tqdm(total=self.total, initial=start, desc="train", unit="step", **bar_options())
    since = time.perf_counter()
    keys, span = self.config.data, {"start": start, "stop": self.total}
    source = features.source(self.setup, state, self.sampler, **span, bad_images=self.bad_images)
    with source as batches, Interrupt() as interrupt, Starving() as starving, bar:
      names = ("image", "label", "index")
      on_devices = parallel.prefetch({name: batch[name] for name in names} for batch in batches)
      for step in range(start + 1, self.total + 1):
        try:
          arrays = next(on_devices)
        except data.WorkerError:
          # A SIGTERM to the whole process group ends the data workers first.
          if not interrupt.requested:
            raise
          return self._interrupted(interrupt, device_state, pending, writer)
        starving.arrived()
        # All is on the devices: a copy from the host here would stall them at every step.
        with jax.transfer_guard("disallow"):
          device_state, metrics = self.step_fn(device_state, arrays)
        if step == start + 1 and step % log_every and step < self.total:
          # What it took to compile is no part of the rate, nor of the time that is left.
          bar.unpause()
          since, logged = time.perf_counter(), step
        starving.started(metrics["finite"])
        pending.append((step, metrics["finite"]))
        # One step behind, so that looking does not stall the device.
        self._check_finite(pending, allow=1)
        bar.update()
        if step % log_every == 0 or step == self.total:
          scalars = {k: float(v) for k, v in parallel.unreplicate(metrics).items()}
          self._check_finite(pending)
          now = time.perf_counter()
          rate = (step - logged) * keys.batch_size / (now - since)
          waited = starving.share(now - since)
          # Not of the first steps: they take what was made while they were compiled.
          if logged > start + 1 and (text := starving.advice(waited, keys.num_workers, keys.cache)):
            say(text)
          since, logged = now, step
          del scalars["finite"]
          writer.write(step, {**scalars, "images_per_second": rate, "data_wait": waited})
          status = f"loss {scalars['loss/real']:.3f}, {rate:.0f} images/s"
          bar.set_postfix_str(status)
          if bar.disable:
            left = (self.total - step) * keys.batch_size / rate
            say(f"step {step} of {self.total}: {status}, {left:.0f} s left")
        evaluate = step % evaluate_every == 0 or step == self.total
        if evaluate or step % save_every == 0:
          self._check_finite(pending)
          state = parallel.unreplicate(device_state)
          paused = time.perf_counter()
          if evaluate:
            self.evaluate(state, writer)
          self.save("last", state, writer)
          since += time.perf_counter() - paused
          starving.pause()
          if self.stopped:
            return True
        if interrupt.requested and step < self.total:
          return self._interrupted(interrupt, device_state, pending, writer)
    return True

  def _interrupted(
    self, interrupt: Interrupt, device_state: TrainState, pending, writer: MetricsWriter
  ) -> bool:
    self._check_finite(pending)
    state = parallel.unreplicate(device_state)
    self.save("last", state, writer)
    self.checkpoints.wait()
    done = f"saved step {int(state.step)} of {self.total}"
    say(f"{interrupt.requested}: {done}; the same command resumes it")
    if interrupt.requested == "SIGINT":
      raise KeyboardInterrupt
    return False

  def _check_finite(self, pending: collections.deque, allow: int = 0) -> None:
    while len(pending) > allow:
      step, finite = pending.popleft()
      if not parallel.unreplicate(finite):
        self.checkpoints.wait()
        raise NonFiniteError(
          f"loss, gradient or parameters are NaN or infinite at step {step}. The last good "
          f"checkpoint is step {self.checkpoints.latest_step()} in {self.workdir / 'checkpoints'}. "
          "Try a lower config.optimizer.learning_rate, config.optimizer.clip_norm=1.0 or warm-up, "
          "in another --workdir, and look for damaged images if it happens at the first step"
        )

  def results(self) -> dict[str, dict[str, float]]:
    """The final table on the test split, of the best checkpoint; prints and keeps it."""
    state, _ = self.checkpoints.restore("best", self.setup.abstract_state())
    embedded = self.test.embed(state)
    rows = {**self.progress.floors, workdir_lib.TRAINED: self.test.score(embedded)}
    if jax.process_index():
      return rows
    workdir_lib.write_results(self.workdir, rows)
    print(outcome.table(self.setup, self.progress, rows))
    for remark in outcome.remarks(self.setup, self.workdir):
      print(remark)
    for shortfall in workdir_lib.shortfalls(rows, self.config.eval.select_by):
      say(f"warning: {shortfall}")
    if self.finished is not None:
      self.finished(runs.Restored(self.setup, state, self.progress, self.test), embedded)
    return rows


def train_and_evaluate(
  config: ConfigDict, workdir: str | pathlib.Path, *, finished: Finished | None = None
) -> dict[str, dict[str, float]] | None:
  """Trains as the config says, or resumes the same config's run in `workdir`, and evaluates.

  Writes to workdir: config.json, metrics.jsonl, TensorBoard events, checkpoints/ and results.json.

  Args:
    config: every key of jaxdml/training/defaults.py.
    workdir: made if needed; ~ is the home.
    finished: called on the first host when results.json is written, with the run and its embedded
      test split; `jaxdml train` writes its report so.

  Returns:
    {"raw pixels", "untrained encoder" ("frozen pretrained encoder" with `encoder.init`), "plain
    form", "trained model"}, those that `config.eval` asks for -> metrics on the test split; None if
    SIGTERM ended the run early (saved; the same call resumes).

  Raises:
    ConfigError: the config cannot run, the workdir holds a run of another config or on other data,
      or another process trains there.
    KeyboardInterrupt: Ctrl-C, once what is done is saved; a second one does not wait for that.
    DatasetNotPreparedError: the data set is not there.
    CheckpointError: no checkpoint of those there can be read, or none can be written.
    NonFiniteError: the loss became NaN; the last good checkpoint is kept.
    ImageDecodeError: more than config.data.max_bad_images cannot be decoded, or a whole class.
    WorkerError: a process that prepares batches died.
  """
  run = _Run(config, pathlib.Path(os.path.expanduser(workdir)), finished)
  with contextlib.closing(run):
    return run.train()
