"""Many runs: the jobs of a sweep, where they run, and how the terminal shows them."""
