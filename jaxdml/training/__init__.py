"""Training: joins models, data, losses, HDML and evaluation (see `loop.train_and_evaluate`)."""
