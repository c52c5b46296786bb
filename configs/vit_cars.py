"""A DINOv2 ViT-S/14 (arXiv 2304.07193) fine-tuned on Cars196, as configs/vit.py has it.

python -m jaxdml.main --config=configs/vit_cars.py --workdir=runs/vit_cars

Published Recall@1, nearest first: a DINO ViT-S/16 fine-tuned 90.7 (OML's README); Hyp-DINO,
ViT-S/16 89.2, Hyp-ViT, ViT-S/16 from ImageNet-21k 86.5 (arXiv 2203.10833); Recall@k surrogate,
ViT-B/16 89.5 (arXiv 2108.11179); VPTSP-G, ViT-B/16 at 512 pixels 91.2 (arXiv 2402.02340). DINOv2
ViT-S/14 frozen 50.3 (OML's README).
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
Weights: from the Hugging Face hub, pip install '.[hub]'; docs/encoders.md.
Other forms: configs/vit_cars.py:dinov2_s14,lora,multisimilarity,eps, or names of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(arg: str = "") -> ConfigDict:
  """The form of configs/vit.py that `arg` names."""
  return vit.get_config(f"cars,{arg}")
