"""Prints docs/results/parity-policies.md: python page.py DIFFERENCES COMMIT GOLDENS

DIFFERENCES is the file that vla/testing/parity.py writes. GOLDENS is a phrase that compares the new goldens with the
committed ones. Standard library only.
"""

import json
import sys

ORIGINALS = {
    "openvla": "the classes of the package siirl 0.2.0, under transformers 4.40.1 (OFT: with its fork's Llama), timm "
    "0.9.16, TensorFlow's pictures; goldens made by their own from_pretrained",
    "pi0": "lerobot 0.6.1, its own classes and processors",
    "pi0-fast": "lerobot 0.6.1, its own classes, processors and copy of FAST's program",
}


def main() -> None:
    differences, commit, goldens = sys.argv[1:]
    with open(differences, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    print(
        f"# Policies against the original code\n\nMade by `make parity` at commit {commit}. Small random checkpoints "
        "in the true formats, loaded by both, float32 on a CPU;\nthe number is the largest difference of any value. "
        f"OpenVLA's goldens: {goldens}."
    )
    for plugin, original in ORIGINALS.items():
        print(f"\n## {plugin}\n\nAgainst {original}.\n\n| what | largest difference | allowed |\n| --- | --- | --- |")
        own = [r for r in rows if r["plugin"] == plugin]
        for r in own:
            print(f"| {r['what']} | {r['apart']:.2g} | {r['most']:.2g} |")
        if not own:
            print("| nothing was compared | | |")


main()
