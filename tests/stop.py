"""A callback that ends a fit early, as a time limit would."""

import lightning as L


class StopAfterEpoch(L.Callback):
    """Stop when the second epoch ends."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch >= 1
