"""A story played in a browser: one page, and a process that makes what it shows; see `story/play` for that one."""
