"""What making clips takes from the machine: memory, power, and the state it is in. What cannot be read is None, never 0."""
