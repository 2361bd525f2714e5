"""vLLM on a CPU, with a small model: the production engine, to test against."""
