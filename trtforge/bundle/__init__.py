"""Bundles: the engines of one model for many machines, with everything to check and rebuild them.

``manifest`` says what is in one, ``storage`` reads and checks one, ``writer`` makes one,
``signature`` signs one; ``plan_header``, ``compatibility`` and ``preflight`` decide which engine
fits a machine. Nothing here runs an engine.
"""
