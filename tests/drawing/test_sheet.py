"""A sheet's pictures stay where they are put, also in what a notebook shows."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxdml.drawing._sheet import Sheet


@pytest.mark.parametrize(("width", "height"), [(317, 203), (733, 99)])
def test_cut_margins_do_not_move_the_pictures(width, height):
  sheet = Sheet()
  picture = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
  sheet.picture(11, 17, picture)
  for box, margin in ((None, 0), ("tight", 10)):  # a tenth of an inch at 100 dots an inch
    file = io.BytesIO()
    sheet.figure(width, height).savefig(file, bbox_inches=box)
    drawn = np.asarray(Image.open(file).convert("RGB"))
    assert drawn.shape == (height + 2 * margin, width + 2 * margin, 3)
    np.testing.assert_array_equal(drawn[17 + margin :, 11 + margin :][:60, :50], picture)
