"""Packaging: everything is read from settings.ini, so that each fact stands in one place."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
extras = {
    key.removesuffix("_requirements"): value.split() for key, value in settings.items() if key.endswith("_requirements")
}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    python_requires=f">={settings['min_python']}",
    packages=[*find_packages(include=["rtseg", "rtseg.*"]), "rtseg.runs.stages"],
    # the stage notebooks travel with the package, so that `rtseg run` needs no checkout
    package_dir={"rtseg.runs.stages": "nbs/stages"},
    package_data={
        "rtseg": ["**/*.yaml", "**/*.pyi", "search/trained_tables/*/*.json*", "web/static/*"],
        "rtseg.runs.stages": ["*.ipynb"],
    },
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": settings["console_scripts"].split()},
    zip_safe=False,
)
