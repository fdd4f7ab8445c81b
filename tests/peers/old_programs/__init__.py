"""Programs on the old SDK, as its users wrote them; the line that imports `meca_api` is the one to change."""
