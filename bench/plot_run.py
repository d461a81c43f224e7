"""Draws the losses of a run, from its metrics.jsonl, as an SVG. Needs nothing but Python.

    python3 bench/plot_run.py out/demo docs/demo.svg
"""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 320, 52, 36, 28


def read(run):
    train, val = [], []
    for line in (Path(run) / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "train":
            train.append((event["step"], event["loss"]))
        elif event["event"] == "eval":
            val.append((event["step"], event["val_loss"]))
    return train, val


def polyline(points, to_xy, style):
    coordinates = " ".join("%.1f,%.1f" % to_xy(*point) for point in points)
    return f'<polyline fill="none" {style} points="{coordinates}"/>'


def draw(train, val):
    steps = max(step for step, _ in train + val)
    top = max(loss for _, loss in train + val)

    def to_xy(step, loss):
        return (LEFT + (WIDTH - LEFT - 16) * step / steps,
                HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * loss / top)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
             'font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="white"/>']
    for loss in range(int(top) + 1):
        x, y = to_xy(0, loss)
        parts.append(f'<line x1="{x}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">{loss}</text>')
    for k in range(5):
        step = steps * k // 4
        x, y = to_xy(step, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{step}</text>')
    parts.append(polyline(train, to_xy, 'stroke="#9bbbe0" stroke-width="1"'))
    parts.append(polyline(val, to_xy, 'stroke="#c0392b" stroke-width="2"'))
    parts.append(f'<text x="{LEFT}" y="18">loss in nats per token: each batch (blue), '
                 'fixed validation windows (red), by step</text></svg>')
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(*read(sys.argv[1])) + "\n")
