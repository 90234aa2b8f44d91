"""Runs in an interpreter that has devinterp 2.0.1; imports nothing of this package.

Arguments: a model's folder, an npz with `gradient` and `observed` ids (n, T), a JSON of settings.
For every line on standard input it samples a long and a short chain and prints a JSON with the
CPU seconds that one more draw costs and the mean observed loss.
"""

import json
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path


def main(folder, data, settings):
    """Answer requests until standard input ends."""
    import numpy as np
    import torch
    from datasets import Dataset, disable_progress_bars
    from devinterp.slt.sampling import sample
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    disable_progress_bars()
    warnings.simplefilter("ignore")
    s = json.loads(settings)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = {
        name: Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")
        for name, ids in np.load(data).items()
    }

    def seconds(draws, bf16):
        with tempfile.TemporaryDirectory() as out, _autocast(torch, bf16):
            started = time.process_time()
            tree = sample(
                model,
                rows["gradient"],
                {"text": (rows["observed"], s["observed_batches"])},
                lr=s["step_size"],
                n_beta=s["n_beta"],
                localization=s["localization"],
                num_chains=1,
                num_draws=draws,
                batch_size=s["rows"],
                num_init_loss_batches=1,
                sampling_method="rmsprop_sgld",
                device="cpu",
                output_path=Path(out) / "samples.zarr",
            )
            used = time.process_time() - started
            losses = next(v for k, v in _arrays(tree) if k.endswith("loss_text"))
            return used, float(losses.mean())

    for line in sys.stdin:
        bf16 = line.strip() == "bf16"
        many, loss = seconds(s["draws"], bf16)
        few, _ = seconds(s["few"], bf16)
        per_draw = (many - few) / (s["draws"] - s["few"])
        print(json.dumps({"seconds": per_draw, "loss": loss}), flush=True)


def _arrays(tree):
    for node in tree.subtree:
        for name, array in node.data_vars.items():
            yield f"{node.path}/{name}", array


def _autocast(torch, bf16):
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


if __name__ == "__main__":
    main(*sys.argv[1:])
