"""What ``stepneg predict`` says of each held-out solution, as a file in the run directory."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor, distributed

from stepneg.data.rows import decode
from stepneg.policy import Policy
from stepneg.policy_folder import load_tokenizer
from stepneg.whole import write_whole


class Predictions(BasePredictionWriter):
    """Write ``RUN/predictions.jsonl``, a line a held-out solution: prompt, response, tokens, logprob (nats)."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Rank zero writes what all ranks have found, in the order of the problems."""
        logps = chain.from_iterable(batch.tolist() for batch in predictions if isinstance(batch, Tensor))
        found = dict(zip(chain.from_iterable(batch_indices[0] if batch_indices else ()), logps, strict=True))
        if trainer.world_size > 1:
            others: list[dict[int, float]] = [{}] * trainer.world_size
            distributed.all_gather_object(others, found)
            found = {place: logp for part in others for place, logp in part.items()}
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Policy)
        data = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer = load_tokenizer(pl_module.start, data.template)
        rows: list[dict[str, Any]] = []
        for place, logp in sorted(found.items()):
            (row,) = data.held_out[place]
            texts = {"prompt": decode(tokenizer, row.prompt_ids), "response": decode(tokenizer, row.response_ids)}
            rows.append(texts | {"tokens": len(row.response_ids), "logprob": logp})
        file = Path(trainer.default_root_dir) / "predictions.jsonl"
        write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
        tokens = sum(row["tokens"] for row in rows)
        mean = sum(row["logprob"] for row in rows) / max(tokens, 1)
        print(f"{file}: {len(rows)} held-out solutions, {mean:.4g} nats a token", flush=True)
