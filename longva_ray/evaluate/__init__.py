"""Needle tests of long context, in text (`niah`) and in video (`vniah`), questions in bulk, and
their figures."""
