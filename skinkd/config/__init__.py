"""From a command line to one resolved configuration: overrides, the teacher's recipe, and the name of the run."""
