"""One table of tolerances; each is relative to the largest entry compared."""

ALGEBRA = 1e-12
"""Two exact expressions of the same quantity in float64."""
CLOSED_FORM = 1e-10
"""A closed form against an independent implementation of the same formula."""
CLOSED_FORM_VS_ODE = 1e-9
"""A closed form against solve_ivp at rtol 1e-12."""
TANGENT_VS_DIFFERENCE = 1e-6
"""A derivative against central differences of the quantity itself."""
