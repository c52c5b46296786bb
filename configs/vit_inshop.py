"""A DINOv2 ViT-S/14 (arXiv 2304.07193) fine-tuned on In-Shop Clothes, as configs/vit.py has it.

python -m jaxdml.main --config=configs/vit_inshop.py --workdir=runs/vit_inshop

Published Recall@1, nearest first: a DINO ViT-S/16 fine-tuned 92.1 (OML's README); Hyp-DINO,
ViT-S/16 92.4, Hyp-ViT, ViT-S/16 from ImageNet-21k 92.5 (arXiv 2203.10833); VPTSP-G, ViT-B/16 at 512
pixels 92.5 (arXiv 2402.02340). DINOv2 ViT-S/14 frozen 33.4 (OML's README).
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip
Weights: from the Hugging Face hub, pip install '.[hub]'; docs/encoders.md.
Other forms: configs/vit_inshop.py:dinov2_s14,lora,multisimilarity,eps, or names of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import vit


def get_config(arg: str = "") -> ConfigDict:
  """The form of configs/vit.py that `arg` names."""
  return vit.get_config(f"inshop,{arg}")
