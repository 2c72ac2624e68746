"""The console command ``landscape``."""
