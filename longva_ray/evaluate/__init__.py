"""Needle tests of long context, in text (`niah`) and in video (`vniah`), and their figures."""
