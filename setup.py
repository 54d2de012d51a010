"""Build settings that pyproject.toml cannot hold: which folders are packages.

The kernels live in `kernels/tempo_kernels` and install as `tempo_kernels`: a package called
`kernels` would stand in the way of Hugging Face's, which transformers looks for.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tempo_fast", "tempo_fast.*"]), "tempo_kernels"],
    package_dir={"tempo_kernels": "kernels/tempo_kernels"},
)
