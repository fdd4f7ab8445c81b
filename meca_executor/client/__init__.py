"""The caller's side: the executor, its ledger of futures, and the link to a gateway."""
