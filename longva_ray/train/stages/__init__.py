"""What is trained: the stages, each a model, its rows and its loss."""
