"""The benchmarks of ``make bench``: one module for each section, and what they share.

``timing.py`` times steps in turn, ``session.py`` takes the rows, ``table.py`` shows them, ``machine.py`` says where they were
taken, and ``networks.py`` builds methods and networks as a run does. docs/performance.md explains each section.
"""
