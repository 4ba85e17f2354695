"""Many runs of recipes: models x recipes x targets, on this machine or on a Ray cluster."""
