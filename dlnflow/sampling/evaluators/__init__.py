"""What a posterior is evaluated with: one file per kind of model."""
