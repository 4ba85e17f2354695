"""Model repositories for Triton Inference Server, from bundles and finished runs.

``config`` is the content of a ``config.pbtxt`` and its text, ``source`` reads what is to be served,
``serving`` decides how (``batches``: how many requests at once, ``model_files``: which engine for
which GPU), ``chain`` makes an ensemble of several models, ``repository`` writes all of
it. Nothing here needs Triton.
"""
