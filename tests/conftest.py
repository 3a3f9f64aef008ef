"""Set before anything imports NumPy: tests run in parallel, and matrix products have the same bits on every machine
only at one BLAS thread."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"
