"""Basins and peaks of measured surfaces: sublevel persistence, merge trees, and which of them are certain."""
