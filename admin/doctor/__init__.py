"""`usher doctor`: what is wrong with this installation, and how to mend it.

`findings` has the words, `command` the table of checks; every other module here looks at one part. What judges
(`judge_…`) is pure and apart from what asks, so that tests feed it literals.
"""
