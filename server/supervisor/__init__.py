"""Workers: started, given jobs, watched, and started again."""
