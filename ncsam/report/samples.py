"""A page that shows the training samples which hold the largest eigenvalue, with thumbnails where they are images."""

from __future__ import annotations

import base64
import io
from importlib import resources

import jinja2
import numpy as np
from PIL import Image  # matplotlib needs it, so it is there

from ncsam.records import SampleCurvatures


def samples_page(record: SampleCurvatures, inputs: np.ndarray, name: str, count: int = 40, epoch: int = -1) -> str:
    """HTML that needs nothing else: the ``count`` samples of largest curvature along the first eigenvector.

    Args:
        record: of the run.
        inputs: (n, …) in the order of the record's samples; images are (n, 1 or 3, height, width).
        name: of the run, for the title.
        count: of samples.
        epoch: position of the epoch in the record.

    Raises:
        ValueError: the inputs are not as many as the record's samples.
    """
    if len(inputs) != len(record.index):
        raise ValueError(f"{len(inputs)} inputs for {len(record.index)} samples; give those of the training set")
    shares = record.contributions[epoch, 0]
    first = np.argsort(-shares)[:count]
    samples = [
        {
            "index": int(record.index[i]),
            "wrong": bool(record.flipped[i]),
            "observed": int(record.observed[i]),
            "true": int(record.true[i]),
            "share": f"{shares[i]:.2%}",
            "curvature": f"{record.curvature[epoch, 0, i]:.4g}",
            "loss": f"{record.loss[epoch, i]:.3g}",
            "margin": f"{record.margin[epoch, i]:.3g}",
            "image": _thumbnail(inputs[i], inputs[first]),
        }
        for i in first
    ]
    wrong = float(np.mean(record.flipped[first])) if len(first) else 0.0
    text = (
        f"The {len(first)} of {len(shares)} training samples of largest curvature at epoch {record.epochs[epoch]} hold "
        f"{shares[first].sum():.0%} of λ₁ = {record.values[epoch, 0]:.4g}; {wrong:.0%} of them have a wrong label "
        f"(framed), of all samples {np.mean(record.flipped):.0%}."
    )
    source = resources.files(__package__).joinpath("samples.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    title = f"Samples that hold the curvature of {name}"
    return environment.from_string(source).render(title=title, text=text, samples=samples)


def _thumbnail(image: np.ndarray, among: np.ndarray) -> str:
    """The image as a ``data:`` link, on one scale for all; empty for what is no image."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        return ""
    pixels = image.astype(float)
    if image.dtype != np.uint8:
        low, high = float(among.min()), float(among.max())
        pixels = (pixels - low) * (255 / (high - low) if high > low else 0.0)
    table = np.moveaxis(pixels.round().clip(0, 255).astype(np.uint8), 0, -1)
    written = io.BytesIO()
    Image.fromarray(table[..., 0] if table.shape[-1] == 1 else table).save(written, "png")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
