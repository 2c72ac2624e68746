"""Parts that several commands use: options in sections, progress, messages, tables, drawing."""
