"""From Kafka to Kafka: messages come in, `inference` judges them, `sinks` keep them, verdicts go out, then offsets."""
