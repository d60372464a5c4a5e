"""
What pushd costs, beside others, in the same run: ``make bench``.

See README.md. Servers are real programs on real sockets; clients are one C program
(load.c), so that it is not what is measured.
"""
