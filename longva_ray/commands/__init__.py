"""What the `longva` command offers: one file for each subcommand, with its options and its run."""
