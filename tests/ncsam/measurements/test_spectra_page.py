"""The page on reading spectra names what exists; its code and commands run in tests/docs."""

from __future__ import annotations

import re

from landscape_cli import hessian, sharpness
from ncsam.records import SharpnessTable, Spectrum
from tests.docs.pages import page

PAGE = page("docs/spectra.md").text


def test_every_field_and_option_it_names_exists() -> None:
    known = {*Spectrum.variables(), *SharpnessTable.variables()}
    for field in ("split_mismatch", "previous_cosines", "layer_values", "captured", "sam_rises", "errors", "seconds"):
        assert f"`{field}`" in PAGE
        assert field in known
    options = {name for command in (hessian, sharpness) for p in command.command.params for name in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= options
