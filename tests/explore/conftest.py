"""Pages of loss traces and of a table with names that are markup, and a browser."""

import shutil

import numpy as np
import pytest
import xarray as xr

import dlnflow as dln
from dlnflow.explore import of_table, write_page
from dlnflow.traces import labelled

CHAINS, DRAWS, ITEMS = 4, 200, 40
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    '"onmouseover="alert(1)',
    "[[DATA]]",
    '"bytes":"000000000000"',
    "\u2028&lt;\\u003c",
)
NAMES = [*HOSTILE[:5], "rose", "oak", "pine"]
FEATURES = [HOSTILE[0], *(f"<i>{k}" for k in range(14))]
TABLE_ESTIMATORS = ("analytic", "tangent", "leave_one_out")


def autoregressive(rng, shape, memory):
    """Stationary Gaussian series along axis 1 with unit variance."""
    noise = rng.standard_normal(shape)
    for d in range(1, shape[1]):
        noise[:, d] = memory * noise[:, d - 1] + np.sqrt(1 - memory**2) * noise[:, d]
    return noise


def make_traces(steps=(0, 100, 300), seed=0, draws=DRAWS):
    rng = np.random.default_rng(seed)
    losses = []
    for k in range(len(steps)):
        shared = autoregressive(rng, (CHAINS, draws, 3), 0.5)
        own = autoregressive(rng, (CHAINS, draws, ITEMS), 0.5)
        losses.append(2 + 0.1 * own + 0.05 * k * shared @ rng.standard_normal((3, ITEMS)))
    losses = np.array(losses)
    positions = np.arange(ITEMS)
    found = labelled(
        losses,
        time=steps,
        items=[f"{k // 20}:{k % 20 + 1}" for k in positions],
        checkpoint_loss=losses.mean((1, 2)),
        attrs={"n_beta": 50.0, "localization": 1.0, "n_train": 1000, "n_parameters": 10},
    )
    coords = {"row": positions // 20, "position": positions % 20 + 1, "token": positions % 7}
    return found.assign_coords({name: ("item", value) for name, value in coords.items()})


@pytest.fixture(scope="session")
def traces():
    """Three checkpoints; in the last one no chain is left."""
    made = make_traces()
    made.values[2] = np.nan
    return made


@pytest.fixture(scope="session")
def classes():
    members = np.arange(ITEMS)[:, None] % [2, 3] == 0
    return xr.DataArray(
        members,
        dims=("item", "token_class"),
        coords={"token_class": ["even", "<i>third</i>"]},
    )


@pytest.fixture(scope="session")
def words():
    return [*HOSTILE, *(f" word{k}\n" for k in range(ITEMS - len(HOSTILE)))]


@pytest.fixture(scope="session")
def page(traces, classes, words, tmp_path_factory):
    """(file, what write_page says of it)."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    return out, write_page(traces, classes, words, out, title="<b>&title")


@pytest.fixture(scope="session")
def table_run():
    """Four modes of different items, two of them with names that are markup."""
    task = dln.semantic_hierarchy()
    return dln.Run(dln.Task(task.y, items=NAMES, features=FEATURES), init_std=1e-3)


@pytest.fixture(scope="session")
def table_curves(table_run):
    steps = table_run.grid(200)
    return dln.stack(*[dln.ESTIMATORS[name](table_run, steps) for name in TABLE_ESTIMATORS])


@pytest.fixture(scope="session")
def table_page(table_run, table_curves, tmp_path_factory):
    """(file, what of_table says of it)."""
    out = tmp_path_factory.mktemp("table") / "page.html"
    return out, of_table(table_run, table_curves, out, title="<b>&title")


@pytest.fixture(scope="session")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("install the packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(one)
    options.add_argument("--window-size=1300,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield made
    made.quit()
