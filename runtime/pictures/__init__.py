"""Pictures that come in: reading files that nobody vouches for, colours, sizes, the end of a clip."""
