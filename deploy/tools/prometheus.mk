# Prometheus and promtool from Debian's package, unpacked and not installed: no root, nothing left outside .tools.
# Where apt has another version, put `prometheus` and `promtool` on the PATH instead: the tests find them there as well.

PROMETHEUS_DEB := prometheus_2.42.0+ds-5+deb12u1_amd64.deb
PROMETHEUS_SHA256 := 81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55
PROMETHEUS := .tools/prometheus

.PHONY: deploy-tools tools-prometheus

deploy-tools: tools-prometheus

tools-prometheus: $(PROMETHEUS)/promtool ## Prometheus for the tests of dashboards and alerts (Debian 12, amd64)

$(PROMETHEUS)/promtool: deploy/tools/prometheus.mk
	rm -rf $(PROMETHEUS) && mkdir -p $(PROMETHEUS)/unpacked
	cd $(PROMETHEUS) && apt-get download $(subst _,=,$(basename $(PROMETHEUS_DEB:_amd64.deb=.deb)))
	cd $(PROMETHEUS) && echo "$(PROMETHEUS_SHA256)  $(PROMETHEUS_DEB)" | sha256sum --check --quiet
	cd $(PROMETHEUS) && dpkg-deb --extract $(PROMETHEUS_DEB) unpacked
	cd $(PROMETHEUS) && mv unpacked/usr/bin/prometheus unpacked/usr/bin/promtool . && rm -rf unpacked $(PROMETHEUS_DEB)
	touch $@
