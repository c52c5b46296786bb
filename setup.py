"""The packages of a wheel; all else is in setup.cfg.

The folder configs/ goes into the package: `jaxdml train --config=hdml_glyphs` needs no clone.
"""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=["jaxdml", "jaxdml.*"]), "jaxdml.configs"],
  package_dir={"jaxdml.configs": "configs"},
)
