"""The compiled pass over the pixels behind `ecc`: everything that one iteration sums."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def accumulate(reference, grad_x, grad_y, moving, matrix, basis, degree, xs, ys):
    """Sum everything that one iteration needs, in one pass over the reference's rows.

    The steepest-descent image of parameter k is ``g_x u_x + g_y u_y`` with polynomials u of x and y. Per
    row the gradients' products are summed against powers of x (contiguous loops), and the parameters'
    coefficients at this y are applied to the sums.

    Returns
    -------
    hessian (k, k); projections (3, k): steepest-descent images summed alone, on the reference, on the moving
    image; scalars (6,): n and the sums of r, i, r^2, i^2, r i.
    """
    k = basis.shape[0]
    rows, columns = reference.shape
    hessian, projections, scalars = np.zeros((k, k)), np.zeros((3, k)), np.zeros(6)
    row = np.empty(columns, np.float32)
    products = np.empty((9, columns), np.float32)
    moments = np.empty((9, 5))
    powers = np.ones((5, columns), np.float32)
    for a in range(1, 5):
        powers[a] = powers[a - 1] * xs
    at_y = np.empty((k, 2, 3))
    for y in range(rows):
        _sample_row(moving, matrix, y, row)
        count = _row_products(reference[y], grad_x[y], grad_y[y], row, products, scalars)
        if count == 0:
            continue
        for q in range(9):
            for a in range(2 * degree + 1 if q < 3 else degree + 1):
                total = np.float32(0)
                for x in range(columns):
                    total += products[q, x] * powers[a, x]
                moments[q, a] = total
        for p in range(k):
            for c in range(2):
                for a in range(degree + 1):
                    at_y[p, c, a] = basis[p, c, a, 0] + ys[y] * (
                        basis[p, c, a, 1] + ys[y] * basis[p, c, a, 2]
                    )
        for p in range(k):
            for a in range(degree + 1):
                ux, uy = at_y[p, 0, a], at_y[p, 1, a]
                for s in range(3):
                    projections[s, p] += ux * moments[3 + 2 * s, a] + uy * moments[4 + 2 * s, a]
                for q in range(p + 1):
                    for b in range(degree + 1):
                        vx, vy = at_y[q, 0, b], at_y[q, 1, b]
                        hessian[p, q] += ux * vx * moments[0, a + b] + uy * vy * moments[2, a + b]
                        hessian[p, q] += (ux * vy + uy * vx) * moments[1, a + b]
    for p in range(k):
        for q in range(p):
            hessian[q, p] = hessian[p, q]
    return hessian, projections, scalars


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _row_products(reference, grad_x, grad_y, moving, products, scalars):
    """Fill the nine products of a row, zero where either image is invalid; add to the scalar sums."""
    n, sum_r, sum_i = np.float32(0), np.float32(0), np.float32(0)
    sum_rr, sum_ii, sum_ri = np.float32(0), np.float32(0), np.float32(0)
    zero = np.float32(0)
    for x in range(reference.size):
        ok = reference[x] == reference[x] and moving[x] == moving[x]
        r, i = (reference[x] if ok else zero), (moving[x] if ok else zero)
        gx, gy = (grad_x[x] if ok else zero), (grad_y[x] if ok else zero)
        n += np.float32(1) if ok else zero
        sum_r += r
        sum_i += i
        sum_rr += r * r
        sum_ii += i * i
        sum_ri += r * i
        products[0, x] = gx * gx
        products[1, x] = gx * gy
        products[2, x] = gy * gy
        products[3, x] = gx
        products[4, x] = gy
        products[5, x] = gx * r
        products[6, x] = gy * r
        products[7, x] = gx * i
        products[8, x] = gy * i
    scalars[0] += n
    scalars[1] += sum_r
    scalars[2] += sum_i
    scalars[3] += sum_rr
    scalars[4] += sum_ii
    scalars[5] += sum_ri
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_row(moving, matrix, y, out):
    """Interpolate the moving image linearly along row y of the reference, NaN outside."""
    rows, columns = moving.shape
    nan = np.float32(np.nan)
    for x in range(out.size):
        d = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
        u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / d
        v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / d
        if u >= 0.0 and v >= 0.0 and u <= columns - 1.0 and v <= rows - 1.0:
            iu, iv = min(int(u), columns - 2), min(int(v), rows - 2)
            fu, fv = np.float32(u - iu), np.float32(v - iv)
            top = moving[iv, iu] + fu * (moving[iv, iu + 1] - moving[iv, iu])
            low = moving[iv + 1, iu] + fu * (moving[iv + 1, iu + 1] - moving[iv + 1, iu])
            out[x] = top + fv * (low - top)
        else:
            out[x] = nan
