"""Studies of many runs: their table, effects, statements, verdicts, and the files that hold them."""
