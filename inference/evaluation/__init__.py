"""How good are judgements, measured against labels of people?

Needs the extra `eval`; no worker imports this. Nothing here asks an engine or a store: arrays go in, figures come out.
"""
