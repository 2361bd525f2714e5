# vLLM on a CPU with a small model, the production engine to test against. Included by the top Makefile.

VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
VLLM_PINS := deploy/vllm/requirements.lock

.PHONY: vllm test-vllm lock-vllm

vllm: $(READY) $(VLLM_READY) ## vLLM with SmolLM2 on loopback, in the foreground until Ctrl-C (first time: 5 GB)
	@$(PYTHON) -m deploy.vllm.server

test-vllm: $(READY) $(VLLM_READY) ## the engine tests against a real vLLM, on the CPU (first time: 5 GB)
	$(PYTHON) -m deploy.vllm.server -- $(BIN)/pytest tests/vllm tests/inference/test_engine_conformance.py -k 'not llama' $(ARGS)

$(VLLM_READY): $(VLLM_PINS) deploy/vllm/convert.py
	rm -rf $(VLLM)
	$(PYTHON3) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VLLM_PINS)
	TQDM_DISABLE=1 $(VLLM)/bin/python deploy/vllm/convert.py $(VLLM)/model
	@touch $@

lock-vllm: ## resolve deploy/vllm/requirements.lock anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--output-file $(VLLM_PINS) deploy/vllm/pyproject.toml
