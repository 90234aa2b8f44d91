"""When a training example matters: influence over training time."""
