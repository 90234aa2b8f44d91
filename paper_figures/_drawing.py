"""Draw one figure, write its files, check what it claims; in a module that processes can import."""

import importlib
import time
from pathlib import Path

from dlnflow.plots import influence_plots
from paper_figures import _captions, _claims, _results
from paper_figures._data import Scale

Drawn = tuple[tuple[str, str, str], list[str]]
"""Row of the table, and claims that do not hold."""


def draw_one(name: str, scale: Scale, out: Path) -> Drawn:
    """Draw and save one figure; return its table row and the claims that do not hold."""
    started = time.perf_counter()
    module = importlib.import_module(f"paper_figures.{name}")
    _results.OUT[:] = [out]
    figure, claims = module.draw(scale)
    about = _captions.caption(name)
    files = influence_plots.save_figure(figure, out / name, title=about.title, alt=about.alt)
    files.append(_claims.write(out / f"{name}.json", claims, scale))
    # Expectations are stored for the quick scale; other scales average over other seeds.
    failed = _claims.failures(name, claims) if scale == Scale.quick else []
    headlines = "\n".join(
        text.format(claims[key]) for key, text in module.HEADLINES.items() if key in claims
    )
    seconds = f"{time.perf_counter() - started:.1f}"
    return (seconds, "\n".join(path.name for path in files), headlines), failed
