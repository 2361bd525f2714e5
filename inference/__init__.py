"""From text and an operator's settings to a judgement: label, scores, confidence, usage, cost, prompt and model.

Nothing here knows Kafka or ClickHouse.
"""
