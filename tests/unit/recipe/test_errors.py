"""The exceptions and their exit codes are part of the interface."""

from raexla.recipe import BadDataError, RaexlaError, StopRequested, UserError


def test_exit_codes():
    codes = {error: error.exit_code for error in (UserError, BadDataError, StopRequested)}
    assert codes == {UserError: 2, BadDataError: 3, StopRequested: 75}
    assert all(issubclass(error, RaexlaError) for error in codes)
