"""The table of docs/encoders.md says what the code does."""

import pathlib
import re

import numpy as np
import pytest

from jaxdml import commands, models
from jaxdml.pretrained import conversion

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()
TABLE = TEXT[: TEXT.index("## Converting")]
ROWS = {
  cells[0].strip("` "): [cell.strip() for cell in cells]
  for cells in (line.strip("|").split("|") for line in TABLE.splitlines() if line[:3] == "| `")
}


def test_every_encoder_has_a_row():
  assert ROWS.keys() == models.ENCODERS.keys()


@pytest.mark.parametrize("arch", models.ENCODERS)
def test_a_row_says_what_the_code_does(arch):
  row, encoder = ROWS[arch], models.create(arch)
  if isinstance(encoder, models.ViT):
    encoder = encoder.clone(scan=True)  # the same parameters, traced faster
  leaves = conversion.leaves(encoder).items()
  size = models.count_parameters({path: x for path, x in leaves if path[0] == "params"})
  assert row[2:4] == [str(encoder.feature_dim), f"{size:,}"]
  published = models.ENCODERS[arch].published
  if published is None:
    assert row[4:] == ["none", "", ""]
    return
  # The cheap look before a conversion lets an encoder's own file through.
  names = {published.name_of(path): conversion.source_shape(path, x.shape) for path, x in leaves}
  arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in names.items()}
  assert published.fits(published.tidied(arrays) if published.tidied else arrays)
  pixels = published.preprocessing
  assert row[6].startswith(pixels.channel_order)
  assert ("ImageNet's" in row[6]) == (pixels.mean == (0.485, 0.456, 0.406))
  if numbers := re.search(r"0\.\.255 - \((.*)\)", row[6]):
    assert [float(x) for x in numbers[1].split(",")] == [round(255 * x, 6) for x in pixels.mean]
    assert pixels.std == (1 / 255,) * 3


def test_the_commands_exist(capsys):
  (command,) = re.findall(r"^jaxdml (convert .*)$", TEXT, re.M)
  assert commands.main([*command.split(), "--help"]) == 0
  assert set(re.findall(r"--\w+", command)) <= set(re.findall(r"--\w+", capsys.readouterr().out))
