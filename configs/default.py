"""The defaults, as a config of their own: N-pair loss on the bundled glyphs.

python -m jaxdml.main --config=configs/default.py --workdir=runs/default

Every key is documented where it is defined, in jaxdml/training/defaults.py.
"""

from jaxdml.training.defaults import get_config as get_config
