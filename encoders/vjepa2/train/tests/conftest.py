import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TRAIN), str(TRAIN.parents[1] / "export")]
