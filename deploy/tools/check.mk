# What `make check-deploy` needs: Kustomize, Compose's loader, BuildKit's linter, and the schemas. Included by the top
# Makefile.

.PHONY: deploy-tools tools-check check-deploy k8s

deploy-tools: tools-check ## fetch and build the tools of `make check-deploy`, pinned (the first time: 10 minutes)

tools-check: $(READY)
	@$(PYTHON) -m deploy.check.fetch

check-deploy: $(READY) deploy-tools ## containers and manifests: schemas, consistency with the code, real programs
	@$(PYTHON) -m deploy.check $(ARGS)

k8s: $(READY) ## the manifests that are written from pipelines and alert rules
	$(PYTHON) -m deploy.check.generated
