"""
The folders at the top of the repository that become resources of the installed package.

All other metadata is in pyproject.toml.
"""

from setuptools import find_packages, setup


RESOURCES = {f"iepile_builder.resources.{folder}": folder for folder in ("recipes", "evaluate_metrics")}

setup(
    packages=[*find_packages(include=["iepile_builder*"]), *RESOURCES],
    package_dir=RESOURCES,
    include_package_data=False,  # only what is named here
    package_data={"iepile_builder": ["py.typed", "resources/**/*"], **{package: ["**/*"] for package in RESOURCES}},
    exclude_package_data={"": ["*.pyc"]},
)
