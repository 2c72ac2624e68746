"""The packages, found where they lie; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["landscape", "landscape.*", "ncsam", "ncsam.*"]),
        "landscape_cli",
        *(f"landscape_cli.{name}" for name in find_packages("cli")),
    ],
    package_dir={"landscape_cli": "cli"},
)
