"""Training under label noise: configuration, data and views, the loop, and its diagnostics."""

__all__ = ["losses", "presets"]
