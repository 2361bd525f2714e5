"""Durable rows in ClickHouse: verdicts, inference calls, lineage. Nothing here knows Kafka or models."""
