"""What tests share: waiting with a limit, scripts in fresh interpreters, and the search for leftovers."""
