"""Runs the model of a bundle on this machine.

``loading`` picks what runs: a fitting engine, one built here (``rebuild``, kept in
``engine_store``), or ONNX Runtime (``onnx_session``) where the caller allows it. ``session`` is
what each of them offers, ``chain`` lets engines follow each other, ``runner`` is what callers hold.
"""
