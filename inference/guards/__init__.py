"""Published moderation models as presets, one module a family: their prompt formats, answers and rules.

Nothing here was run against the models' weights; `docs/guards.md` says what was checked, and against what.
"""
