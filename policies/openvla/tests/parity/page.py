"""Prints docs/results/parity-policies.md: python page.py DIFFERENCES COMMIT GOLDENS

DIFFERENCES is the file that vla/testing/parity.py writes. GOLDENS is a phrase that compares the new goldens with the
committed ones. Standard library only.
"""

import json
import sys

ORIGINALS = {
    "openvla": "the classes of the package siirl 0.2.0 with their own from_pretrained, under transformers 4.40.1 (OFT: "
    "with the Llama of its fork), timm 0.9.16 and TensorFlow's image functions",
    "pi0": "lerobot 0.6.1 with its own classes and processors",
    "pi0-fast": "lerobot 0.6.1 with its own classes, processors and copy of FAST's program",
}


def main() -> None:
    differences, commit, goldens = sys.argv[1:]
    with open(differences, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    print(
        "# Policies compared with the original code\n\n**Question.** Do the policies compute the same values as the "
        f"original implementations?\n\n**Result.** {sum(r['apart'] <= r['most'] for r in rows)} of {len(rows)} "
        f"differences are within their tolerance.\n\nMade by `make parity` at commit {commit}. Both load the "
        "same small random checkpoints in the published formats, in float32\non a CPU. The number is the largest "
        f"difference of any value. OpenVLA's goldens: {goldens}."
    )
    for plugin, original in ORIGINALS.items():
        print(f"\n## {plugin}\n\nCompared with {original}.\n")
        print("| what | largest difference | tolerance |\n| --- | --- | --- |")
        own = [r for r in rows if r["plugin"] == plugin]
        for r in own:
            print(f"| {r['what']} | {r['apart']:.2g} | {r['most']:.2g} |")
        if not own:
            print("| nothing was compared | | |")
    print("\n## Limits\n\nThe checkpoints are small and random, and one CPU was used.")
    print("Published weights were not compared.")


main()
