"""What can be known before, beside and after a run: plans, sources, locks, audits, diagnoses.

`answers`, `estimate`, `sources` and `lock` are pure; `survey`, `on_instance` and `doctor` ask. Imported one by one, so that a
command that asks nobody needs no SSH.
"""
