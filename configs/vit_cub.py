"""A DINOv2 ViT-S/14 (arXiv 2304.07193) fine-tuned on CUB-200-2011, as configs/vit.py has it.

python -m jaxdml.main --config=configs/vit_cub.py --workdir=runs/vit_cub

Published Recall@1, nearest first: a DINO ViT-S/16 fine-tuned 83.7 (OML's README); Hyp-DINO,
ViT-S/16 80.9, Hyp-ViT, ViT-S/16 from ImageNet-21k 85.6 (arXiv 2203.10833); VPTSP-G, ViT-B/16 at 512
pixels 88.5 (arXiv 2402.02340). DINOv2 ViT-S/14 frozen 79.7 (OML's README).
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
Weights: from the Hugging Face hub, pip install '.[hub]'; docs/encoders.md.
Other forms: configs/vit_cub.py:dinov2_s14,lora,multisimilarity,eps, or names of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(arg: str = "") -> ConfigDict:
  """The form of configs/vit.py that `arg` names."""
  return vit.get_config(f"cub,{arg}")
