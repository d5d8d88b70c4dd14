"""Write goldens.json: the measures of metrics.go as computed by SciPy and scikit-learn.

Make a virtual environment outside the repository, then

    pip install numpy scipy scikit-learn
    python make_goldens.py

Samples and curves are drawn here and stored, so that both sides see the same numbers.
"""

import importlib.metadata
import json
import pathlib

import numpy as np
from scipy.spatial.distance import jensenshannon, pdist
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

BINS = 20


def mmd(x, y):
    """Return sigma, the median distance between elements, and the root of the biased MMD estimate (RBF kernel)."""
    both = np.concatenate([x, y])[:, None]
    sigma = np.median(pdist(both))
    if sigma == 0:
        sigma = np.mean(pdist(both))
    if sigma == 0:
        sigma = 1.0
    k = rbf_kernel(both, gamma=1 / (2 * sigma**2))
    n = len(x)
    return float(sigma), float(np.sqrt(max(0, k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean())))


def js(x, y):
    """Return the Jensen-Shannon divergence, in nats, of the histograms of two samples."""
    p, _ = np.histogram(x, BINS, (0, 1))
    q, _ = np.histogram(y, BINS, (0, 1))
    return float(jensenshannon(p, q) ** 2)


def smd(x, y):
    """Return Cohen's d of two samples."""
    n, m = len(x), len(y)
    pooled = ((n - 1) * np.var(x, ddof=1) + (m - 1) * np.var(y, ddof=1)) / (n + m - 2)
    return float((np.mean(x) - np.mean(y)) / np.sqrt(pooled))


def order(curve):
    """Return the share of pairs in the order of time, equal pairs counting half, from Kendall's tau-b."""
    n = len(curve)
    pairs = n * (n - 1) / 2
    ties = sum(curve[i] == curve[j] for i in range(n) for j in range(i))
    tau_b = kendalltau(np.arange(n), curve).statistic
    difference = tau_b * np.sqrt(pairs * (pairs - ties))  # concordant minus discordant
    return float((pairs - ties + difference) / 2 / pairs + ties / 2 / pairs)


rng = np.random.default_rng(4)
samples = []
cases = [(5, 7, "wide"), (30, 12, "near"), (40, 40, "ends"), (8, 3, "tied"), (2, 2, "wide"), (60, 25, "same")]
for n, m, kind in cases:
    if kind == "ends":
        x, y = 1 - rng.beta(1, 30, n), rng.beta(2, 5, m)
    elif kind == "tied":
        x, y = np.ones(n), np.round(rng.random(m), 1)
    elif kind == "same":
        x, y = rng.random(n), rng.random(m)
    else:
        x, y = rng.uniform(0.3, 1, n), rng.uniform(0, 0.7 if kind == "near" else 1, m)
    sigma, value = mmd(x, y)
    labels = np.concatenate([np.ones(n), np.zeros(m)])
    samples.append({
        "x": x.tolist(), "y": y.tolist(), "sigma": sigma, "mmd": value, "js": js(x, y), "smd": smd(x, y),
        "auroc": float(roc_auc_score(labels, np.concatenate([x, y]))),
    })  # fmt: skip

curves = []
for n in [2, 3, 9, 32, 64]:
    for noise in [0.0, 0.3, 2.0]:
        c = np.linspace(0, 1, n) + noise * rng.standard_normal(n)
        if noise == 0.3:
            c = np.round(c, 1)  # equal values
        if np.ptp(c) == 0:
            continue
        sc, mono = spearmanr(np.arange(n), c).statistic, np.mean(np.diff(c) > 0)
        curves.append({"curve": c.tolist(), "sc": float(sc), "mono": float(mono), "order": order(c)})

versions = {p: importlib.metadata.version(p) for p in ("numpy", "scipy", "scikit-learn")}
out = {"versions": versions, "samples": samples, "curves": curves}
pathlib.Path(__file__).with_name("goldens.json").write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")
