"""
Nothing that was acknowledged is forgotten: ``python -m killed --help``.

Processes are killed at random moments and started again, while some publish and many
read. :mod:`killed.ledger` holds what was acknowledged against what each reader was told,
and knows no network. :mod:`killed.nodes` are the processes, :mod:`killed.histories` what
they record in, :mod:`killed.publisher`, :mod:`killed.reader` and :mod:`killed.upstream`
those around them, and :mod:`killed.trial` is the order in which it all happens.

The parts that this has in common with ``make soak`` are in :mod:`soak`.
"""
