"""The `dlnflow` command."""
