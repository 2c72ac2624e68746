"""``python -m landscape_cli``."""

from .main import main

main()
