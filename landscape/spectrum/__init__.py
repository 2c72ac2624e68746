"""Eigenpairs, trace, density and other properties of a symmetric operator that is known by its products."""
