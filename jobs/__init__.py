"""Jobs: what was asked for and what became of it, in one database; and the worker process that makes videos of them.

`job.py`, `store.py`, `files.py`, `protocol.py` and `worker_process.py` import neither numpy nor an engine: a server reads them.
`worker/` runs reels.
"""
