"""How a training run lives on a cluster: Ray Train, its workers, their watch and their trackers."""
