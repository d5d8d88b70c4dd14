"""Compares clustering and rewards with scikit-learn and scipy: reads `go run ./cmd/srpo-bench -json reward`.

Usage: python speed.py BENCH.json > TABLE.md. The same arithmetic as in srpo, on points from the same distribution
(two modes in 1408 dimensions, half of the batch successes): radius from the k-distances, DBSCAN, centres, distances,
z-scores.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time

import numpy as np
import scipy
import sklearn
from scipy.spatial.distance import cdist
from scipy.special import expit
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

DIM = 1408
SLACK, OUTLIER_RATIO = 1.2, 2.0  # host/srpo/options.go


def modes(n: int) -> np.ndarray:
    """Points [n, DIM] around two centres. The distance of the centres is ten times the radius of a cloud."""
    points = np.random.default_rng(n).standard_normal((n, DIM))
    points[np.arange(n) % 4 < 2, 0] += 10 * math.sqrt(DIM)
    return points


def auto(points: np.ndarray) -> np.ndarray:
    """Centres [C, DIM] of srpo's `auto`: DBSCAN with the radius of host/srpo/cluster.go."""
    n = len(points)
    least = min(max(2, round(math.log(n))), n)
    near, _ = NearestNeighbors(n_neighbors=least, algorithm="brute").fit(points).kneighbors()  # without itself
    q = np.sort(near[:, least - 2])
    m = next((j for j in range(max(n - 1 - n // 4, 0), n - 1) if q[j + 1] > OUTLIER_RATIO * q[j]), n - 1)
    return centres(points, DBSCAN(eps=SLACK * q[m], min_samples=least, algorithm="brute").fit_predict(points))


def reference(points: np.ndarray) -> np.ndarray:
    """Centres [C, DIM] of srpo's `reference`."""
    labels = DBSCAN(eps=0.5, min_samples=2, algorithm="brute").fit_predict(StandardScaler().fit_transform(points))
    return centres(points, labels)


def centres(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = [points[labels == c].mean(axis=0) for c in range(labels.max() + 1)]
    return np.array(found or [points.mean(axis=0)])


def batch(points: np.ndarray) -> np.ndarray:
    """Rewards of the failures; every second point is a failure."""
    d = cdist(points[1::2], auto(points[::2])).min(axis=1)
    return 0.8 * expit(-(d - d.mean()) / d.std())


def seconds(f, points: np.ndarray, repeats: int) -> float:
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        f(points)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main(path: str) -> None:
    with open(path, encoding="utf-8") as f:
        section = next(s for s in json.load(f)["sections"] if s["name"] == "reward")
    print(
        f"scikit-learn {sklearn.__version__}, scipy {scipy.__version__}, numpy {np.__version__}, {os.cpu_count()}"
        f" cores; load average {section['load'][0]:.1f} to {section['load'][1]:.1f} while srpo ran,"
        f" {os.getloadavg()[0]:.1f} when the others started.\n"
        "Seconds, median of 3 (for the others 1 with 10,000). In brackets: srpo's time divided by the other's.\n"
    )
    head = ["attempts", "cluster: auto, srpo", "scikit-learn", "cluster: reference, srpo", "scikit-learn"]
    head += ["score a batch, srpo", "scikit-learn and scipy", "centres"]
    print("| " + " | ".join(head) + " |\n| " + " | ".join(["---"] * len(head)) + " |")
    for row in section["tables"][0]["rows"]:
        ours = row["values"]
        n = int(ours["attempts"])
        points = modes(n)
        found = len(auto(points))
        cells = [str(n)]
        for key, f in (("auto", auto), ("reference", reference), ("batch", batch)):
            theirs = seconds(f, points, 1 if n >= 10000 else 3)
            cells += [f"{ours[key]:.3g} ({ours[key] / theirs:.2f})", f"{theirs:.3g}"]
        same = int(ours["centres"])
        cells.append(f"{same}" if same == found else f"{same} and {found}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
