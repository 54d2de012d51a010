"""Build settings that pyproject.toml cannot hold: which folders are packages."""

from setuptools import find_packages, setup

setup(packages=find_packages(include=["tempo_fast", "tempo_fast.*"]))
