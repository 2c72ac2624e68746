"""Products recorded once as a program, rewritten to cost less, and run again."""
