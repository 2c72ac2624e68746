"""Loss and metrics of every view at many points, fast and without a trace."""
