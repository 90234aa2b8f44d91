"""The commands `dlnflow lm ...`; long ones go on where they were stopped."""

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from dlnflow._support.command import explained, fraction, on_interrupt, requires, writable
from dlnflow._support.terminal import say, visible

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Per-token influence in language models, over their training checkpoints.",
)
Model = Annotated[
    Path,
    typer.Argument(help="Folder of a run, or of step<N>/ in the hub's layout, or a hub name."),
]
Text = Annotated[
    str | None,
    typer.Option(help="Text file or folder, for checkpoints that `train` did not make."),
]
Steps = Annotated[
    list[int] | None, typer.Option("--step", help="Checkpoint; repeat. Default: all.")
]
StoreFolder = Annotated[Path, typer.Option(help="Folder of the loss traces.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; they change results in rounding.")]
GOES_ON = "What was written is complete; the same command goes on from there."
"""Of the commands that take up their own folder again."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What `--set` of `sample` changes; None: the default of `dlnflow.lm.experiment`."""

    rows: int | None = None
    length: int | None = None
    tokenizer: str | None = None
    separator: str | None = None
    chains: int | None = None
    n_beta: float | None = None
    localization: float | None = None
    step_size: float | None = None
    burn_in: int | None = None
    thin: int | None = None
    seed: int | None = None
    device: str | None = None
    threads: int | None = None
    repair: bool = False

    def for_sampler(self) -> dict[str, Any]:
        """Return the keywords of `dlnflow.lm.experiment.sampler`; what is left out is chosen."""
        names = ("chains", "n_beta", "localization", "step_size", "burn_in", "thin", "seed")
        return self.given(*names, "device", "threads")

    def plan(self, folder: Path, text: str | None, **options: Any) -> Any:
        """Return what is sampled, from a run of `train` or from a text."""
        from dlnflow import lm

        shape = self.given("length", "tokenizer", "separator")
        if text is None and shape:
            raise ValueError(f"`--set` {' and '.join(shape)} need `--text`; a run has its own.")
        options |= self.given("rows")
        if text is None:
            return lm.experiment.plan(folder, **options)
        return lm.experiment.plan_from_text(folder, text, **options, **shape)

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of some settings that are not left to the default."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@app.command()
@explained
def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run.")],
    configuration: Annotated[str, typer.Option(help="natural, fast or pythia-14m.")] = "fast",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, folder or hub name. Default: train one.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Train a small Pythia with checkpoints in the hub's layout; goes on if it was stopped.

    Under torchrun, processes share the rows of every step: torchrun ... -m dlnflow lm train ...
    """
    requires("lm")
    import numpy as np
    import torch

    from dlnflow import lm
    from dlnflow._support.progress import Progress
    from dlnflow.checks import one_of

    torch.set_num_threads(threads)
    one_of("configuration", configuration, list(lm.CONFIGURATIONS))
    settings = changed(lm.CONFIGURATIONS[configuration], setting or [])
    loaded = lm.tokenizer.load_tokenizer(tokenizer) if tokenizer else None
    with (
        on_interrupt(GOES_ON),
        lm.processes.joined(device) as own,
        Progress(settings.n_steps, "training") as bar,
    ):
        first = lm.processes.Processes.here().first

        def progress(step: int, loss: float) -> None:
            bar.advance(step + 1 - bar.done)

        shown = progress if first else None
        ladder = lm.train.train(settings, out, tokenizer=loaded, progress=shown, device=own)
    if not first:
        return
    losses = np.load(out / "losses.npy")
    last = float(losses[-1]) if len(losses) else None
    _print({"folder": str(out), "steps": ladder.steps.tolist(), "loss": last}, as_json)


@app.command()
@explained
def classes(
    text: Annotated[Path, typer.Argument(help="Text file.")],
    tokenizer: Annotated[str, typer.Option(help="tokenizer.json, a run's folder, or a hub name.")],
    as_json: AsJson = False,
) -> None:
    """Print the tokens of a text with their structural classes."""
    requires("lm")
    from dlnflow import lm

    documents, loaded = lm.corpus.read_documents(text), lm.tokenizer.load_tokenizer(tokenizer)
    vocabulary = lm.token_classes.Vocabulary(loaded)
    rows = []
    for ids in lm.tokenizer.encode_documents(documents, loaded, separator="none"):
        found = lm.classify([ids], vocabulary)
        names = found.token_class.values
        rows += [
            {"token": loaded.id_to_token(int(i)), "classes": [str(n) for n in names[member]]}
            for i, member in zip(ids, found.values[0], strict=True)
        ]
    if as_json:
        _print({"tokens": rows}, True)
        return
    for row in rows:
        say(f"{visible(row['token'])}\t{' '.join(row['classes'])}")


@app.command()
@explained
def induction(
    folder: Model,
    step: Steps = None,
    text: Text = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Print induction scores and losses on repeated sequences at every checkpoint."""
    requires("lm")
    from dlnflow import lm

    lm.device.usable_device(device)
    ladder = lm.checkpoints.find(folder, ordered(step))
    sequences = lm.experiment.probe(ladder, folder, text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = lm.induction.measure(ladder, sequences, device=device)
    for one in said:
        say(f"warning: {one.message}", err=True)
    rows = [
        {
            "step": int(t),
            "best_head": float(data.induction.sel(time=t).max(skipna=False)),
            "best_layer": float(data.layer_induction.sel(time=t).max(skipna=False)),
            "previous": float(data.previous.sel(time=t).max(skipna=False)),
            "first_half": float(data.loss.sel(time=t, half="first")),
            "second_half": float(data.loss.sel(time=t, half="second")),
        }
        for t in ladder.steps
    ]
    _table(rows, as_json)


@app.command()
@explained
def sample(  # noqa: PLR0913  (one parameter per option of the command)
    folder: Model,
    store: StoreFolder,
    step: Steps = None,
    observe: Annotated[
        str,
        typer.Option(
            help="text: held-out rows; delimiters: those with most delimiters; repeats: random "
            "sequences repeated."
        ),
    ] = "text",
    text: Text = None,
    draws: Annotated[int, typer.Option(min=4)] = 250,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a setting; repeat: rows (32, 64 repeats), chains, seed, device, "
            "threads; n_beta, localization, step_size, burn_in, thin, which are else chosen from "
            "the model (see suggest); with --text also length and tokenizer; repair=true computes "
            "damaged chains again.",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(help="tokens: every loss; classes: sums over classes, for groups, figure 5."),
    ] = "tokens",
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Only part K of N, from 1/N to N/N, beside the others."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler, tcp://HOST:8786.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record losses of tokens around checkpoints, beside others; goes on, also with more draws."""
    requires("lm", *(["cluster"] if scheduler else []))
    import numpy as np

    from dlnflow import lm
    from dlnflow._support.progress import Progress
    from dlnflow.checks import one_of

    share = fraction(part)
    one_of("keep", keep, ["tokens", "classes"])
    chosen = changed(Sampling(), setting or [])
    plan = chosen.plan(folder, text, observe=observe, steps=ordered(step))
    plan = plan.of_class_sums() if keep == "classes" else plan
    sampler = lm.experiment.sampler(draws=draws, **chosen.for_sampler())
    chains = chosen.chains or lm.experiment.CHAINS
    total = len(range(share[0] - 1, chains * len(plan.checkpoints), share[1]))
    with (
        on_interrupt(GOES_ON),
        lm.executors.executor(workers, scheduler, sampler.device) as executor,
        Progress(total, "sampling") as bar,
    ):
        left = lm.experiment.sample_part(
            plan,
            sampler,
            store,
            share,
            lambda k, _: bar.advance(k - bar.done),
            repair=chosen.repair,
            executor=executor,
        )
    found: dict[str, Any] = {"store": str(store)}
    if part is not None:
        found |= {"part": part, "chains_left": len(left)}
    if not left:
        traces, _ = lm.experiment.read(folder, store)
        found |= {name: int(n) for name, n in traces.sizes.items()}
        found |= {name: np.asarray(traces.attrs[name]).item() for name in lm.experiment.CHOSEN}
    _print(found, as_json)


@app.command()
@explained
def suggest(
    folder: Model,
    step: Steps = None,
    observe: Annotated[str, typer.Option(help="What the pilot observes, as of sample.")] = "text",
    text: Text = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="As of sample; what is given is kept."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the settings of `sample` from the model, and print what was measured and why."""
    requires("lm")
    from dlnflow import lm
    from dlnflow.cli import settings_table

    chosen = changed(Sampling(), setting or [])
    plan = chosen.plan(folder, text, observe=observe, steps=ordered(step))
    found = lm.experiment.suggest(plan, lm.experiment.sampler(**chosen.for_sampler())).record()
    if as_json:
        _print(found, True)
    else:
        say("\n".join(settings_table.lines(found)))


@app.command()
@explained
def groups(folder: Model, store: StoreFolder, as_json: AsJson = False) -> None:
    """Print the influence of every class on every class, with 95 % intervals and a verdict."""
    requires("lm")
    from dlnflow import lm
    from dlnflow import traces as readers

    traces, members = lm.experiment.read(folder, store)
    found = readers.groups(traces, members, exclude=lm.experiment.left_out(members))
    ends = readers.interval(found)
    rows = [
        {
            "step": int(t),
            "query": str(q),
            "train": str(i),
            "influence": float(found.sel(one)),
            "low": float(ends.lower.sel(one)),
            "high": float(ends.upper.sel(one)),
            "standard_error": float(found.standard_error.sel(one)),
            "dof": float(found.dof.sel(one)),
            "verdict": str(found.verdict.sel(time=t).item()),
        }
        for t in found.time.values
        for q in found["query"].values
        for i in found["train"].values
        for one in [{"time": t, "query": q, "train": i}]
    ]
    _table(rows, as_json)


@app.command()
@explained
def knn(
    folder: Model,
    store: StoreFolder,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Print how often nearest neighbours in influence tell a token's class, against chance."""
    requires("lm")
    from dlnflow import lm
    from dlnflow import traces as readers

    traces, members = lm.experiment.read(folder, store)
    found = readers.neighbours(traces, members, k=k, exclude=lm.experiment.left_out(members))
    rows = [
        {
            "step": int(t),
            "token_class": str(c),
            "recall": float(found.recall.sel(one)),
            "low": float(found.low.sel(one)),
            "high": float(found.high.sel(one)),
            "chance": float(found.chance.sel(token_class=c)),
            "count": int(found["count"].sel(token_class=c)),
            "too_rare": bool(found.too_rare.sel(token_class=c)),
        }
        for t in found.time.values
        for c in found.token_class.values
        for one in [{"time": t, "token_class": c}]
    ]
    _table(rows, as_json)


@app.command()
@explained
def figures(
    folder: Model,
    store: StoreFolder,
    out: Annotated[Path, typer.Option(help="Folder for PNG, PDF and SVG.")],
    as_json: AsJson = False,
) -> None:
    """Draw class influence and recall (figures 5 and 14) of text, figure 15 of repeats."""
    requires("lm", "figures")
    from dlnflow import lm

    writable(out)
    _print({"files": [str(file) for file in lm.figures.draw(folder, store, out)]}, as_json)


@app.command()
@explained
def explore(
    folder: Model,
    store: StoreFolder,
    out: Annotated[Path, typer.Option(help="The page, one HTML file.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json. Default: the one of the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page on which a click on a token shows what helps and harms it, and when."""
    requires("lm")
    from dlnflow import explore as pages
    from dlnflow._support.progress import Progress

    if out.is_dir():
        raise ValueError(f"`--out` must be a file such as page.html, but {out} is a folder.")
    writable(out.absolute().parent)
    with Progress(1, "reading checkpoints") as bar:

        def progress(k: int, n: int) -> None:
            bar.total = n
            bar.advance(k - bar.done)

        found = pages.of_language_model(folder, store, out, tokenizer=tokenizer, done=progress)
    _print(found, as_json)


@app.command()
@explained
def doctor(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, of step<N>/, or of a store.")],
    as_json: AsJson = False,
) -> None:
    """Check what lies in a folder, change nothing, and say what was found; exit code 1 if wrong."""
    requires("lm")
    from dlnflow import lm

    found = lm.doctor.examine(folder)
    healthy = all(one.level != "problem" for one in found)
    if as_json:
        rows = [one.record() for one in found]
        _print({"folder": str(folder), "healthy": healthy, "findings": rows}, True)
    else:
        for one in found:
            say("\t".join(map(visible, (one.level, one.subject, one.message))))
    if not healthy:
        raise typer.Exit(1)


def _table(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON or with tabs between columns."""
    if as_json:
        return _print({"rows": rows}, True)
    say("\t".join(rows[0]))
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else visible(v) for v in row.values())
        say("\t".join(cells))
    return None


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_finite(answer), indent=1, allow_nan=False))
    else:
        for name, value in answer.items():
            say(f"{name}: {visible(value)}")


def _finite(value: Any) -> Any:
    """Return a value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def changed(settings: Any, changes: list[str]) -> Any:
    """Apply NAME=VALUE to settings, in the type of the old value."""
    for change in changes:
        name, equals, value = change.partition("=")
        kinds = {f.name: _kind(settings, f) for f in dataclasses.fields(settings)}
        if not equals or name not in kinds:
            raise ValueError(
                f"`--set` expects NAME=VALUE with NAME one of {', '.join(kinds)}; got {change!r}."
            )
        try:
            read = _truth if kinds[name] is bool else kinds[name]
            settings = dataclasses.replace(settings, **{name: read(value)})
        except ValueError as error:
            raise ValueError(f"`--set` {change!r}: {error}") from error
    return settings


def _kind(settings: Any, field: dataclasses.Field) -> type:
    """Return the type of a value, or of what could stand in the place of a None."""
    value = getattr(settings, field.name)
    return next(iter(get_args(field.type))) if value is None else type(value)


def _truth(word: str) -> bool:
    """Read true or false."""
    if word not in ("true", "false"):
        raise ValueError("expected true or false")
    return word == "true"


def ordered(steps: list[int] | None) -> list[int] | None:
    """Return steps in order and once each; None, all of them, if none are given."""
    return sorted(set(steps)) if steps else None
