"""The paper's benchmarks, run by lmms-eval in an environment of its own."""
