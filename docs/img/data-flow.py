"""Draws docs/img/data-flow.svg, the picture of docs/architecture.md: `python docs/img/data-flow.py`."""

from pathlib import Path

# name: (x, y, title, subtitle); packages are boxes, processes of plugins are rounded.
boxes = {
    "env": (30, 50, "env processes", "one simulator per lane"),
    "policy": (30, 160, "policy process", "or one per GPU"),
    "encoder": (30, 280, "encoder process", "frozen"),
    "rollout": (470, 105, "host/rollout", "episodes in groups"),
    "srpo": (470, 280, "host/srpo", "clusters, rewards, advantages"),
    "train": (850, 105, "host/train", "one iteration, top to bottom"),
    "store": (850, 200, "host/store", "commit by one rename"),
    "report": (850, 295, "host/report", "report.html"),
}
width, height = 220, 56
arrows = [  # from a side, to a side, label and its shift in y
    ("env", "r", "rollout", "l", "frames, proprio, success", -6),
    ("policy", "r", "rollout", "l", "chunks of actions", 14),
    ("rollout", "b", "encoder", "r", "clips", 0),
    ("encoder", "r", "srpo", "l", "embeddings", 0),
    ("rollout", "b", "srpo", "t", "success or failure", 0),
    ("srpo", "r", "train", "l", "advantages", 0),
    ("train", "b", "store", "t", "policy, state", 3),
    ("store", "b", "report", "t", "metrics", 3),
]


def port(name: str, side: str) -> tuple[float, float]:
    """Return the middle of a side of a box: l, r, t or b."""
    x, y, *_ = boxes[name]
    return {
        "l": (x, y + height / 2),
        "r": (x + width, y + height / 2),
        "t": (x + width / 2, y),
        "b": (x + width / 2, y + height),
    }[side]


out = [
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1090 370" role="img" font-family="system-ui, sans-serif">',
    "<title>Data flow of an iteration</title>",
    "<style>rect{fill:#f5f7fa;stroke:#5c6873}.p{fill:#e8f0fe}text{fill:#1b2127;font-size:14px}.s{font-size:12px;fill:#5c6873}",
    "path{fill:none;stroke:#5c6873;stroke-width:1.4}.u{stroke-dasharray:5 4}</style>",
    '<rect width="1090" height="370" style="fill:#fff;stroke:none"/>',
    '<defs><marker id="a" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
    '<path d="M0 0 9 4 0 8z" style="fill:#5c6873;stroke:none"/></marker></defs>',
]
for start, side, end, other, label, shift in arrows:
    (x1, y1), (x2, y2) = port(start, side), port(end, other)
    out.append(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" marker-end="url(#a)"/>')
    out.append(
        f'<text class="s" x="{(x1 + x2) / 2:g}" y="{(y1 + y2) / 2 - 2 + shift:g}" text-anchor="middle"'
        f' style="paint-order:stroke;stroke:#fff;stroke-width:5px">{label}</text>'
    )
# The update goes around the outside: from host/train over the top to the policy.
out.append('<path class="u" d="M960 105 V20 H10 V188 H28" marker-end="url(#a)"/>')
out.append('<text class="s" x="580" y="36" text-anchor="middle">update</text>')
for x, y, title, subtitle in boxes.values():
    kind = "" if title.startswith("host/") else ' class="p" rx="20"'
    out.append(f'<rect{kind} x="{x}" y="{y}" width="{width}" height="{height}"/>')
    out.append(f'<text x="{x + width / 2:g}" y="{y + 24}" text-anchor="middle">{title}</text>')
    out.append(f'<text class="s" x="{x + width / 2:g}" y="{y + 43}" text-anchor="middle">{subtitle}</text>')
out.append("</svg>")
Path(__file__).with_suffix(".svg").write_text("\n".join(out) + "\n")
