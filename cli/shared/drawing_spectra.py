"""Which pictures a set of spectra allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from landscape.figures import spectra
from landscape.records import Status
from ncsam.figures.style import symbols
from ncsam.records import Spectrum, density_at, eigenpairs_at, layers_at, split_at
from ncsam.study.arms import printed
from ncsam.training.problem import DOCUMENTS

from . import progress

VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test", "val")
_MOST = 8  # panels of a figure


def spectra_figures(found: Mapping[str, Spectrum], suffix: str) -> dict[str, Callable[[], Figure]]:
    """Pictures of spectra by label: eigenvalues along epochs they share, and at each one's last what it holds there."""
    views = with_documents(VIEWS, set.intersection(*(set(s.views.tolist()) for s in found.values())))
    epochs = sorted(set.intersection(*(set(s.epochs.tolist()) for s in found.values())))
    drawn: dict[str, Callable[[], Figure]] = {}
    known = symbols(found)
    if len(epochs) > 1 and (along := _panels(found, views, partial(_along, epochs))):
        drawn[f"eigenvalues{suffix}"] = partial(spectra.eigenvalues, along, epochs, known)
    if densities := _panels(found, views, partial(_last, density_at)):
        drawn[f"density{suffix}"] = partial(spectra.densities, densities, known)
    if layers := _panels(found, views, partial(_last, layers_at)):
        drawn[f"layers{suffix}"] = partial(spectra.layers, layers, known)
    if split := _panels(found, ["mixed"] if "mixed" in views else [], partial(_last, split_at)):
        drawn[f"split{suffix}"] = partial(
            spectra.splits, {printed(label): record for label, record in split["mixed"].items()}
        )
    return drawn


def with_documents(wanted: Sequence[str], held: Iterable[str]) -> list[str]:
    """The wanted ones of the views that are held, then sets of documents, up to eight; others are told.

    >>> with_documents(("mixed", "test"), {"test", "documents:code", "mixed", "val"})
    ['mixed', 'test', 'documents:code']
    """
    there = set(held)
    views = [view for view in wanted if view in there] + sorted(view for view in there if view.startswith(DOCUMENTS))
    if left := views[_MOST:]:
        progress.notes.info("not drawn, being more than %d views: %s", _MOST, ", ".join(left))
    return views[:_MOST]


def _panels(
    found: Mapping[str, Spectrum], views: Sequence[str], take: Callable[[Spectrum, str], Any]
) -> dict[str, dict[str, Any]]:
    """Collect what there is by label, by view; views that nothing holds are left out."""
    panels = {}
    for view in views:
        records = {label: record for label, s in found.items() if (record := take(s, view)) is not None}
        if records:
            panels[view.replace("_", " ")] = records
    return panels


def _last(at: Callable[[Spectrum, int, str], Any], spectrum: Spectrum, view: str) -> Any:
    return at(spectrum, int(spectrum.epochs.max()), view)


def _along(epochs: Sequence[int], spectrum: Spectrum, view: str) -> Any:
    rows = spectrum.status[:, spectrum.views.tolist().index(view)]
    return None if (rows == Status.EMPTY).any() else [eigenpairs_at(spectrum, epoch, view) for epoch in epochs]
