"""The digits of the training tests."""

from tests.training.conftest import data_dir as data_dir
