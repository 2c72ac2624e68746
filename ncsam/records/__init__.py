"""The groups of a run file and of a study file, as records."""
