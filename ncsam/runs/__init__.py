"""One training run: its file, its log, and the state that a stopped one resumes from."""
