"""Print the lowest versions that pyproject.toml allows, one a line: name==version.

Arguments are extras. Torch is left out: its oldest Linux builds bring gigabytes for a GPU.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def lowest(requirements: list[str]) -> dict[str, str]:
    """Return name -> lowest version, following extras of the package itself."""
    found: dict[str, str] = {}
    for line in requirements:
        one = Requirement(line)
        if one.name == project["name"]:
            for extra in sorted(one.extras):
                found |= lowest(project["optional-dependencies"][extra])
            continue
        bounds = [s.version for s in one.specifier if s.operator in (">=", "==", "~=")]
        if len(bounds) != 1:
            raise SystemExit(f"{line!r} in pyproject.toml has no lower bound.")
        found[one.name] = bounds[0]
    return found


wanted = lowest(project["dependencies"])
for extra in sys.argv[1:]:
    wanted |= lowest(project["optional-dependencies"][extra])
print(*(f"{name}=={version}" for name, version in wanted.items() if name != "torch"), sep="\n")
