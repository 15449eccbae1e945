"""Long runs: soak tests and MLPerf's load generator."""
