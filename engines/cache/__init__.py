"""What is kept on the device for the next time: lowered graphs, built engines, counted costs."""
