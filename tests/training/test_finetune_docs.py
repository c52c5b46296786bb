"""The section on fine-tuning of docs/encoders.md says what the code takes."""

import pathlib
import re
import shlex

import pytest

from jaxdml import training
from jaxdml.commands import _config
from jaxdml.training import optimizers

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()
SECTION = TEXT.split("\n## Fine-tuning\n")[1].split("\n## ")[0]


def test_every_optimizer_has_its_options():
  rows = [line.split(" | ") for line in SECTION.splitlines() if line.startswith("| `")]
  words = lambda cell: re.findall(r"`(\w+)`", cell)
  listed = {name: set(words(options)) for names, options, *_ in rows for name in words(names)}
  assert listed == {name: set(options) for name, options in optimizers.OPTIMIZERS.items()}


def _commands():
  """Each example's arguments after the program."""
  blocks = "".join(re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL))
  lines = blocks.replace("\\\n", " ").splitlines()
  return [shlex.split(line)[3:] for line in lines if line.startswith("python -m jaxdml.main ")]


@pytest.mark.parametrize("arguments", _commands(), ids=lambda a: a[1].split("=")[1])
def test_the_commands_are_configs(arguments):
  given = [argument.removeprefix("--").split("=", 1) for argument in arguments]
  (config,) = [value for key, value in given if key == "config"]
  overrides = [(key[7:], value) for key, value in given if key.startswith("config.")]
  read = _config.read(config, [(k, v) for k, v in overrides if k != "encoder.init"])
  assert training.resolve(read, 1) != training.resolve(_config.read(config, []), 1)
