"""The claims of the paper in sections 3, 4, A, C and D, each with a number and a verdict.

    python -m paper_figures.claims

computes the verdicts from the numbers in ``expected/`` and writes docs/claims.md with its
picture and ``expected/claims.json``. A test compares both with what the numbers give.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from dlnflow._support.files import write_atomic, write_json
from paper_figures import lag_figure, section4
from paper_figures._claims import EXPECTED
from paper_figures._lm_claims import SECTION_4, SECTION_D
from paper_figures._stage_claims import APPENDIX_A
from paper_figures._toy_claims import APPENDIX, TOY
from paper_figures._verdicts import CONTRADICTED, NOT_SHOWN, NOT_TESTABLE, SHOWN, Claim

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
VERDICTS = EXPECTED / "claims.json"
"""{claim: {source: verdict}}."""
WIDTH = 100
"""Most characters of a line."""
PARTS = (
    (
        "Section 3: the toy network",
        "One deep linear network, 8-50-15, standard deviation 1e-3.",
        TOY,
    ),
    (
        "Appendix A: phases",
        "The stages of the toy network with four hidden units as phases of the posterior over all "
        "networks with the prior N(0, 1) (figure free_energy).",
        APPENDIX_A,
    ),
    (
        "Appendix C: the toy network",
        "The same network, except where a row says otherwise.",
        APPENDIX,
    ),
    (
        "Section 4: language models",
        "`fast` (0.23 M parameters, a quarter of the rows with planted repeats) and `natural` "
        "(0.66 M, no planted repeats), trained on the Python standard library. They observe the "
        "held-out rows that have most delimiters. Late is the mean of the last three checkpoints.",
        SECTION_4,
    ),
    ("Appendix D: language models", "The same models.", SECTION_D),
)
PICTURES = ((section4, SECTION_4), (lag_figure, SECTION_D))
"""Modules with a figure, and the claims below which it stands."""
INTRODUCTION = f"""# The claims of the paper, one by one

This page says of every claim that Lee et al. 2025 make in sections 3 and 4 and in appendices A, C
and D what was measured here, and what follows. It is written by `python -m paper_figures.claims`
from the numbers in `paper_figures/expected/`. A test fails when a verdict changes.

| verdict | what it means |
|---|---|
| {SHOWN} | the whole interval fulfils the condition |
| {CONTRADICTED} | the whole interval fails it |
| {NOT_SHOWN} | the interval has both |
| {NOT_TESTABLE} | there is no number, and the row says why |

For the toy network the interval is the tolerance to which a test holds the number: its runs are
deterministic, or sampled with errors far below it. For language models it is the 95 % t interval
over chains and sequences together ([sampling](sampling.md#intervals)). Negative influence is help.
Intervals of differences add both ends, or the squares of both errors. They say nothing about other
seeds of training, which have rows of their own. Claims that hold by construction, such as the
symmetry of sampled influence or the structure of the data, are left out.
"""


def every() -> list[Claim]:
    """Return all claims."""
    return [claim for _, _, claims in PARTS for claim in claims]


def verdicts() -> dict[str, dict[str, str]]:
    """Return the verdict of every row of every claim."""
    return {claim.name: claim.verdicts() for claim in every()}


def page() -> str:
    """Return the text of docs/claims.md."""
    return "\n".join([INTRODUCTION, *_summary(), *_parts()])


def _summary() -> Iterator[str]:
    yield "## How many hold\n"
    yield "Rows, not claims, are counted: a claim has one row for each model and estimator.\n"
    names = (SHOWN, NOT_SHOWN, CONTRADICTED, NOT_TESTABLE)
    yield f"| part | {' | '.join(names)} |"
    yield "|---|---|---|---|---|"
    for title, _, claims in PARTS:
        count = Counter(v for claim in claims for v in claim.verdicts().values())
        yield f"| {title} | {' | '.join(str(count[name]) for name in names)} |"
    yield ""


def _parts() -> Iterator[str]:
    for title, about, claims in PARTS:
        yield f"## {title}\n"
        yield from _wrapped(about)
        yield "\n| claim | model and seed | chains | number | holds if | verdict |"
        yield "|---|---|---|---|---|---|"
        for claim in claims:
            yield from _rows(claim)
        yield ""
        for claim in claims:
            yield from _wrapped(f"- **{claim.name}** *{claim.says}* {claim.measured}", "  ")
        yield ""
        for figure, of in PICTURES:
            if claims is of:
                yield from _picture(figure)


def _picture(figure: ModuleType) -> Iterator[str]:
    yield from _wrapped(f"![{figure.ALT}](gallery/{figure.PICTURE.name})")
    yield ""
    yield from _wrapped(figure.CAPTION)
    yield ""


def _rows(claim: Claim) -> Iterator[str]:
    if not claim.rows:
        yield f"| {claim.name} | | | | | {NOT_TESTABLE} |"
        return
    name, condition = claim.name, str(claim.condition)
    for row, verdict in zip(claim.rows, claim.verdicts().values(), strict=True):
        number = "" if row.number is None else str(row.number)
        cells = (name, row.source, row.chains, number, condition, verdict)
        yield f"| {' | '.join(cells)} |"
        name = condition = ""


def _wrapped(text: str, indent: str = "") -> Sequence[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def main() -> None:
    """Write the page, its picture and the verdicts."""
    write_atomic(PAGE, lambda path: path.write_text(page(), encoding="utf-8"))
    write_json(VERDICTS, verdicts())
    for figure, _ in PICTURES:
        figure.write(figure.PICTURE)
    print(json.dumps(Counter(v for one in verdicts().values() for v in one.values()), indent=1))


if __name__ == "__main__":
    main()
