"""Many runs: the jobs of a sweep, where they run, and what the terminal shows of them."""
