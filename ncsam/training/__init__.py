"""Training under label noise: configuration, data and views, the loop, and its diagnostics."""
