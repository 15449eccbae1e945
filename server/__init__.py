"""Jobs over HTTP: a process that answers, workers that it starts and watches, and a page.

Scope: videos made on this machine for who stands before it or shares its network. Not here: accounts, billing, several machines.
Neither numpy nor an engine is imported in the process that answers. What a job is, and the worker, is in `jobs/`.
"""
