"""What many runs say together: their table, effects, statements, verdicts, and the files that hold them."""
