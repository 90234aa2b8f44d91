"""Language models, their training and their checkpoints."""
