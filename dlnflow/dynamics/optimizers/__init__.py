"""Update rules in the conventions of torch.optim, one file each.

A new rule is one new file in this folder that defines ``RULE``; `base` says what a rule is.
"""

from importlib import import_module
from pkgutil import iter_modules

from dlnflow.dynamics.optimizers.base import Base, Rule, State, Traits, change_state

_FILES = [import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name != "base"]
OPTIMIZERS: dict[str, type[Rule]] = {file.RULE.name: file.RULE for file in _FILES}
"""Rules by name, as given to `dlnflow.Run`."""

__all__ = ["OPTIMIZERS", "Base", "Rule", "State", "Traits", "change_state"]
