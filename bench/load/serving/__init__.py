"""Load on a server of videos: a client of any server of the shape, a server of our own, and what is seen of both."""
