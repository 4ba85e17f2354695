"""Looks at a machine and says what does not fit together, and what mends it.

Facts come first: ``installation`` (packages, libraries, driver) and ``limits`` (memory, files,
disk) beside :mod:`trtforge.environment`. Then rules judge them: ``tensorrt_rules``, ``cuda_rules``,
``package_rules`` and ``machine_rules``; ``checkup`` runs all of them, and ``requirements`` holds a
machine against what a caller demands. ``docs/doctor.md`` lists every code.
"""
