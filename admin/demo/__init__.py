"""`usher demo`: a community's day on embedded parts, and a verdict on what came of it."""
