"""Tasks for lmms-eval about local videos; its `--include_path` names this folder."""
