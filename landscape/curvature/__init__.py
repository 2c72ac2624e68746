"""Products with Hessian, Gauss-Newton matrix and empirical Fisher matrix, and how they are made."""
