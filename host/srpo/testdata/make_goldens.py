"""Write goldens.json: the rewards of siiRL 0.2.0 for a few small batches.

The values come from siiRL's own function, compute_embodied_reward of
siirl/utils/reward_score/embodied.py in the PyPI package, run here on float64. Nothing of it is copied.
Its imports of torch, tensordict and loguru are stubbed: the function only reads
tensors through a few methods, which Tensor below has.

Make a virtual environment outside the repository, then

    pip install numpy scipy scikit-learn
    pip install --no-deps siirl==0.2.0
    python make_goldens.py

The versions used are written into goldens.json.

Embeddings of up to 8 numbers are stored; longer ones as a recipe, a list of
[seed, scale] whose noise vectors are added up. The Go test makes the same numbers.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
from sklearn.cluster import DBSCAN

MASK = (1 << 64) - 1


def noise(seed, dim):
    """dim numbers in [-1, 1), the same bits in every language (splitmix64)."""
    out, state = [], seed
    for _ in range(dim):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        out.append((z >> 11) * 2.0**-52 - 1.0)
    return np.array(out)


class Tensor:
    """The part of a torch tensor that the reference touches."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.ndim = self.array.ndim

    def size(self, axis):
        return self.array.shape[axis]

    def tolist(self):
        return self.array.tolist()

    def cpu(self):
        return self

    def numpy(self):
        return self.array


def load_reference():
    class Silent:
        def __getattr__(self, _):
            return lambda *a, **k: None

    for name, attrs in {
        "torch": {"Tensor": Tensor},
        "tensordict": {"TensorDict": dict},
        "loguru": {"logger": Silent()},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(attrs)
        sys.modules[name] = module
    files = importlib.metadata.files("siirl")
    path = next(f for f in files if str(f).endswith("reward_score/embodied.py")).locate()
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_embodied_reward


def score(reference, rollouts, dim):
    embeddings = np.array([embedding(r, dim) for r in rollouts])
    width = 64
    names = np.zeros((len(rollouts), width), dtype=np.uint8)
    for i, r in enumerate(rollouts):
        raw = f"libero_goal_task_{r['task']}_trial_{i}".encode()
        names[i, : len(raw)] = list(raw)
    results = reference(
        {
            "responses": Tensor(np.zeros((len(rollouts), 1))),
            "complete": Tensor(np.array([r["success"] for r in rollouts])),
            "finish_step": Tensor(np.zeros(len(rollouts))),
            "vjepa_embedding": Tensor(embeddings),
            "task_file_name": Tensor(names),
        }
    )
    for r, result in zip(rollouts, results):
        r["score"] = float(result["score"])
        if "distance_to_success" in result:
            r["distance"] = float(result["distance_to_success"])


def embedding(r, dim):
    if "embedding" in r:
        return np.array(r["embedding"], dtype=np.float64)
    return sum((scale * noise(seed, dim) for seed, scale in r["recipe"]), np.zeros(dim))


def given(vectors, success, task=0):
    return [{"task": task, "success": success, "embedding": [float(v) for v in x]} for x in vectors]


def made(recipes, success, task=0):
    return [{"task": task, "success": success, "recipe": [list(p) for p in r]} for r in recipes]


def cloud(seed, n, dim, scale=1.0, offset=0.0):
    return np.round([offset + scale * noise(seed + i, dim) for i in range(n)], 6)


def cases():
    line = [[x / 10] for x in (0, 1, 2, 3, 4, 30, 31, 32, 33, 34, 100)]
    yield "one dimension, two clusters and a far one", 1, given(line, True) + given([[-1.0], [0.2], [1.5], [3.2], [9.0]], False)
    yield "one cluster in two dimensions", 2, given(cloud(1, 12, 2), True) + given(cloud(50, 6, 2, 3), False)
    two = np.vstack([cloud(10, 8, 2, 0.05), cloud(30, 8, 2, 0.05, 4)])
    yield "two clusters in two dimensions", 2, given(two, True) + given(cloud(60, 9, 2, 5), False)
    three = np.vstack([cloud(100, 6, 3, 0.1), cloud(120, 5, 3, 0.1, 3), cloud(140, 4, 3, 0.1, -5), [[20.0, 1, 2]]])
    yield "three clusters and noise", 3, given(three, True) + given(cloud(170, 7, 3, 6), False)
    yield "no cluster: the mean", 8, given(cloud(200, 6, 8), True) + given(cloud(220, 6, 8, 2), False)
    yield "a lone failure", 4, given(cloud(300, 5, 4), True) + given([[9.0, 9, 9, 9]], False)
    yield "a lone success", 3, given([[1.0, 2, 3]], True) + given(cloud(310, 4, 3), False)
    yield "two equal successes", 3, given([[1.0, 2, 3], [1.0, 2, 3]], True) + given(cloud(320, 4, 3), False)
    yield "equal distances", 2, given([[1.0, 1], [-1.0, -1]], True) + given([[3.0, 4], [-3.0, 4], [4.0, -3]], False)
    yield "distances that differ by less than 1e-6", 2, given([[0.0, 1], [0.0, -1]], True) + given([[1.0, 0], [1.0000005, 0], [0.9999998, 0]], False)
    yield "distances that differ by more than 1e-6", 2, given([[0.0, 1], [0.0, -1]], True) + given([[1.0, 0], [1.000005, 0], [0.9999998, 0]], False)
    yield "no success", 2, given(cloud(330, 4, 2), False)
    yield "no failure", 2, given(cloud(340, 4, 2), True)
    yield "an all-zero success", 3, given(cloud(350, 4, 3), True) + given([[0, 0, 0]], True) + given(cloud(360, 4, 3, 2), False)
    yield "an all-zero failure", 3, given(cloud(370, 4, 3), True) + given([[0, 0, 0]], False) + given(cloud(380, 4, 3, 2), False)
    flat = cloud(400, 9, 4)
    flat[:, 2] = 7.3
    yield "a dimension that does not vary", 4, given(flat, True) + given(cloud(420, 5, 4, 2), False)
    almost = cloud(440, 10, 3, 0.2)
    almost[:, 1] = 1e6 + np.arange(10) * 1e-10
    yield "a dimension that varies by rounding only", 3, given(almost, True) + given(almost[:4] + 0.5, False)
    yield "far from the origin", 3, given(cloud(460, 14, 3, 1, 1000), True) + given(cloud(480, 5, 3, 2, 1000), False)
    chain = [[0.3 * i, 0.0] for i in range(12)]
    yield "a chain", 2, given(chain, True) + given(cloud(500, 6, 2, 4), False)
    tasks = []
    for t in range(3):
        tasks += given(cloud(520 + 40 * t, 5, 3, 0.5, t), True, t) + given(cloud(540 + 40 * t, 4, 3, 2, t), False, t)
    yield "three tasks, interleaved", 3, [tasks[i] for i in sorted(range(len(tasks)), key=lambda i: (i * 7) % 27)]
    high = made([[(1, 1.0), (700 + i, 0.2)] for i in range(6)], True) + made([[(2, 1.0), (720 + i, 0.2)] for i in range(6)], True)
    yield "two modes in 64 dimensions", 64, high + made([[(1, 0.5), (740 + i, 0.5)] for i in range(5)], False)
    yield "two modes in 1408 dimensions", 1408, high + made([[(1, 0.5), (740 + i, 0.1 * i)] for i in range(6)], False)
    yield "equal successes in 1408 dimensions", 1408, made([[(5, 1.0)]] * 3, True) + made([[(6, 1.0), (8, 0.5)]], True) + made([[(5, 1.0), (760 + i, 0.3)] for i in range(5)], False)
    yield "thirty of each in 16 dimensions", 16, made([[(800 + i, 1.0)] for i in range(30)], True) + made([[(850 + i, 1.5)] for i in range(30)], False)


def dbscan_cases():
    """scikit-learn's own labels, with more neighbours than the reference's 2."""
    for k, (dim, eps, least) in enumerate(
        [(1, 0.05, 4), (1, 0.02, 3), (2, 0.35, 5), (2, 0.25, 4), (2, 0.2, 3), (3, 0.5, 4), (3, 0.4, 4), (5, 0.9, 4), (5, 0.8, 3), (20, 2.5, 4), (20, 2.2, 3), (300, 10.5, 5)]
    ):
        recipes = [[[900 + i % 3, 0.7], [1000 + 100 * k + i, 0.7]] for i in range(60)]
        points = np.array([embedding({"recipe": r}, dim) for r in recipes])
        labels = DBSCAN(eps=eps, min_samples=least).fit(points).labels_.tolist()
        print(dim, eps, least, sorted({l: labels.count(l) for l in labels}.items()))
        yield {"dim": dim, "eps": eps, "min_points": least, "recipes": recipes, "labels": labels}


def main():
    reference = load_reference()
    written = []
    for name, dim, rollouts in cases():
        score(reference, rollouts, dim)
        written.append({"name": name, "dim": dim, "rollouts": rollouts})
    versions = {p: importlib.metadata.version(p) for p in ("siirl", "numpy", "scipy", "scikit-learn")}
    versions["python"] = sys.version.split()[0]
    out = pathlib.Path(__file__).with_name("goldens.json")
    head = json.dumps(versions)
    body = ",\n".join(json.dumps(c) for c in written)
    labels = ",\n".join(json.dumps(c) for c in dbscan_cases())
    out.write_text(f'{{"versions": {head},\n"cases": [\n{body}\n],\n"dbscan": [\n{labels}\n]}}\n')
    print(f"{len(written)} cases in {out.name}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
