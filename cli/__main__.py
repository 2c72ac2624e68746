"""``python -m landscape_cli``."""

from landscape_cli.main import main

main()
