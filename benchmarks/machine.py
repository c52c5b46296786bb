"""The machine and the versions, to print beside every figure."""

from jaxdml.training.machine import describe as describe
