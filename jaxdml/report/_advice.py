"""Words of a run's report: what its curves say, what to do if they are bad, and what comes next."""

import os
import pathlib
import re
import shlex
from typing import NamedTuple

from jaxdml import data
from jaxdml.prepare.image_folder import SEEN
from jaxdml.prepare.photos import ACROSS
from jaxdml.training.monitors import TOO_LONG
from jaxdml.training.runs import Restored


class Word(NamedTuple):
  """The name of a metric of metrics.jsonl in print, and what good values of it are."""

  name: str
  note: str = ""


# In the order of the page; metrics of other names follow under their own. The values are those of
# the suites in docs/results.md, and docs/methods.md says what came of them.
WORDS = {
  "hdml/lambda": Word(
    "λ: 1 pulls nothing, 0 all the way", "Good: above a half to the end. Lower, negatives are "
    "pulled among the anchor's class: make hdml.alpha smaller, or auto.",
  ),
  "hdml/trust_in_real": Word(
    "exp(-β / J_gen): weight of J_m", "Good: 0.3 to 0.7. Near 1 synthetics weigh nothing: set "
    "hdml.beta to about the last loss/generator, or auto.",
  ),
  "hdml/reconstruction_error": Word(
    "reconstruction error", "Share of the features' variance that the generator loses. Good: below "
    "0.3. Above a half train longer, or start from published weights.",
  ),
  "loss/head": Word(
    "head's cross-entropy", "Good: about a tenth of chance, or less. Near chance synthetics keep "
    "no label: train longer, or raise optimizer.head_learning_rate.",
  ),
  "hdml/pull_share": Word(
    "share of negatives to pull",
    "Those farther off than the positive. Near 0 nothing is made harder.",
  ),
  "hdml/pull_ratio": Word("pulled / real negative distance", "1 is no pull."),
  "hdml/positive_distance": Word("positive distance"),
  "hdml/negative_distance": Word(
    "negative distance", "Should stay above the positive distance: else nothing is learnt."
  ),
  "learning_rate": Word("learning rate"),
  "grad_norm": Word("norm of the gradient"),
  "images_per_second": Word("images a second"),
  "data_wait": Word(
    "share of time waiting for images",
    f"Above {TOO_LONG:g} raise data.num_workers, set data.cache, or prepare smaller photos.",
  ),
}  # fmt: skip
CHANCE = "chance"  # what loss/head starts from


def warnings(dataset: data.Dataset) -> list[str]:
  """Sentences on what `jaxdml prepare` found that makes measures of the test split too good."""
  what_to_do = {
    ACROSS: "On them the model is measured on what it was trained on. jaxdml prepare --drop_copies "
    "leaves copies out",
    SEEN: "So the measures are not those of unseen classes",
  }
  return [
    f"{line.partition(' (')[0].rstrip('.')}. {said}; which they are stands under Settings and "
    "versions."
    for start, said in what_to_do.items()
    for line in prepared(dataset).split("\n")
    if line.startswith(start)
  ]


def prepared(dataset: data.Dataset) -> str:
  """The lines that `jaxdml prepare` printed of people's own photos; empty of other data sets."""
  return dataset.description if dataset.name.startswith("image_folder/") else ""


def about_selection(run: Restored) -> str:
  """A sentence on the images that the curves are of, where the tables are of others."""
  chosen, measured = run.setup.selecting, run.setup.measured
  if chosen is measured:
    return ""
  label = run.setup.config.data.label
  return (
    f"That split has {len(chosen):,} images of {len(chosen.classes(label)):,} classes kept from "
    f"training, to choose the checkpoint; the tables are of the {len(measured):,} of the test. "
    "Fewer images are easier to rank, so compare these values with each other, not with those."
  )


def next_steps(
  run: Restored, workdir: pathlib.Path, *, finished: bool = True
) -> list[tuple[str, str]]:
  """Returns what to do with a run, (a sentence, a command) each."""
  config, steps, best = run.setup.config, run.setup.total_steps, run.progress.best_step
  # Pages are passed on: of a path from the root the name alone.
  where = shlex.quote(workdir.name if workdir.is_absolute() else os.fspath(workdir))
  number, unit = re.findall(r"[\d.]+|[a-z]+", config.train.duration)
  longer = f"--config.train.duration={shlex.quote(f'{2 * float(number):.12g} {unit}')}"
  again = "give the command that trained it once more"
  more = f"{again} with this; it goes on from its last checkpoint:"
  if not finished:
    said = (
      f"To finish the run, {again}: it goes on from its last checkpoint. To make it longer, add:"
    )
  elif config.eval.select_by == "last":
    said = f"To train longer, {more}"
  elif best >= 0.9 * steps:
    said = f"The best checkpoint is one of the last, so training longer may help: {more}"
  else:
    said = (
      f"The best checkpoint is of step {best:,} of {steps:,}, so training longer alone will not "
      f"help. To do it all the same, {more}"
    )
  found = f"jaxdml search --workdir={where} --images=DIR --query=IMAGE --out=found.html"
  kept = f"jaxdml embed --workdir={where} --images=DIR --out=embeddings"
  return [
    ("Search a folder of images for those that look most like one of yours:", found),
    ("Embed a large folder once, to search it by --embeddings=embeddings in place of --images:",
     kept),
    ("Take the model elsewhere, without jaxdml:",
     f"jaxdml export --workdir={where} --format onnx --out=exported"),
    (said, longer),
  ]  # fmt: skip
