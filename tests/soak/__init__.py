"""
Load, faults, reloads and restarts together, for as long as one says: ``make soak``.

:mod:`soak.documents` are documents that can tell whether they are whole,
:mod:`soak.source` is an upstream that serves them when it is well, :mod:`soak.rude`
are clients that behave badly, :mod:`soak.daemon` is pushd, from process to process,
:mod:`soak.publisher` and :mod:`soak.reader` are the two ends of all that is said, and
:mod:`soak.tally` is what came of it. :mod:`soak.__main__` runs them all.
What comes behind it, when processes are killed, is :mod:`killed`.
"""
