# Apache Kafka on the JVM, a second broker to test against. Included by the top Makefile.

PYTHON ?= .venv/bin/python
MAVEN ?= mvn
KAFKA_PORT ?= 9092
KAFKA_PINS := deploy/kafka/jars.sha256

.PHONY: kafka kafka-pin

kafka: $(READY) ## Apache Kafka on loopback, in the foreground until Ctrl-C (needs Java 17 or later; Maven the first time)
	@$(PYTHON) -m deploy.embedded.kafka --port $(KAFKA_PORT)

kafka-pin: ## write the jars' SHA-256 list anew, after a change of deploy/kafka/pom.xml
	rm -rf build/kafka-jars
	$(MAVEN) -q -B -C -f deploy/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/kafka-jars
	cd build/kafka-jars && LC_ALL=C sha256sum *.jar > $(CURDIR)/$(KAFKA_PINS)
