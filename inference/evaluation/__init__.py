"""How good are judgements, measured against labels of people?

Needs the extra `eval`; no worker imports this. Only `plots` and `page` take what the extra `screen` has not. Nothing
here asks an engine or a store: arrays go in, figures come out.
"""
