"""The function that is analysed: a model's loss over data as a function of the parameters."""
