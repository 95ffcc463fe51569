"""The paper's method: an equation group per file, then the heads that wire them."""
