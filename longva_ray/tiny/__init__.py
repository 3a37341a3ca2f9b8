"""The tiny world: everything from which longva-tiny, a real LongVA of a few hundred thousand
parameters, is trained on two CPU cores. No Ray, no downloads; all of it follows from seeds."""
