"""The bigger jobs on the command line, and how a job is shown to anybody."""
