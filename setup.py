"""
The folders at the top of the repository that become resources of the installed package, and the README for its index.

All other metadata is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


RESOURCES = {f"iepile_builder.resources.{folder}": folder for folder in ("recipes", "evaluate_metrics")}
# The index has no other file of the repository: no pictures, and no targets of relative links
README = Path("README.md").read_text(encoding="utf-8")
README = re.sub(r"<picture>.*?</picture>\n\n", "", README, flags=re.DOTALL)
README = re.sub(r"\[([^]]*)\]\((?!https:|#)[^)]*\)", r"\1", README)

setup(
    long_description=README,
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["iepile_builder*"]), *RESOURCES],
    package_dir=RESOURCES,
    include_package_data=False,  # only what is named here
    package_data={"iepile_builder": ["py.typed", "resources/**/*"], **{package: ["**/*"] for package in RESOURCES}},
    exclude_package_data={"": ["*.pyc"]},
)
